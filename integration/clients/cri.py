#!/usr/bin/python3
# As much of a CRI client as the cases need, since Debian has none: each message is a dictionary of field numbers (api.proto of
# k8s.io/cri-api, v1), and curl speaks HTTP/2. Prints what the answer has in the field that matters.
#   cri.py handlers                               NAME recursive_read_only_mounts user_namespaces, a line each
#   cri.py run-pod HANDLER NAME [host|userns]     the pod's id; `host`: the network, pid and ipc namespaces of the host
#   cri.py create POD NAME [ro=HOST:PATH] [user=N] [read-only] [privileged] -- ARG...    the container's id
#   cri.py start|stop|remove|state ID             state: created, running, exited CODE
#   cri.py exec ID ARG...                         stdout, stderr, and the exit code as its own
#   cri.py update ID FIELD=VALUE                  a field of LinuxContainerResources by its number
#   cri.py stop-pod|remove-pod|pods               pods: the ids
import subprocess
import sys

SOCKET = "/run/containerd/containerd.sock"
IMAGE = "localhost/box:latest"


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def encode(message):
    out = b""
    for number, values in message.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(number << 3) + varint(value)
            else:
                data = encode(value) if isinstance(value, dict) else value.encode()
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def decode(data):
    """The fields of a message, each a list; what has a length is left as bytes."""
    at, fields = 0, {}

    def number():
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            value = number()
        elif key & 7 == 2:
            length = number()
            value, at = data[at : at + length], at + length
        else:
            width = 8 if key & 7 == 1 else 4
            value, at = data[at : at + width], at + width
        fields.setdefault(key >> 3, []).append(value)
    return fields


def call(method, message):
    body = encode(message)
    request = ["curl", "-sS", "--max-time", "60", "--http2-prior-knowledge", "--unix-socket", SOCKET, "-D", "/dev/stderr",
               "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-",
               "http://localhost/runtime.v1.RuntimeService/" + method]
    done = subprocess.run(request, input=b"\0" + len(body).to_bytes(4, "big") + body, capture_output=True)
    headers = done.stderr.decode()
    if "grpc-status: 0" not in headers:
        told = [line for line in headers.splitlines() if line.startswith(("grpc-message", "curl"))]
        sys.exit(f"{method}: " + ("\n".join(told) or headers))
    return decode(done.stdout[5:])


def pod_config(name, kind):
    modes = {1: 2, 2: 2, 3: 2} if kind == "host" else {2: 1}
    if kind == "userns":
        ids = {1: 100000, 2: 0, 3: 65536}
        modes[5] = {1: 0, 2: ids, 3: ids}
    config = {1: {1: name, 2: name, 3: "default"}, 3: "/tmp/logs", 8: {2: {1: modes}}}
    if kind != "host":
        config[2] = name
    return config, modes


def create(pod, name, words):
    at = words.index("--")
    kind = subprocess.run(["cat", "/tmp/pod-" + pod], capture_output=True, text=True).stdout
    sandbox, modes = pod_config(*kind.split(" "))
    security = {3: modes}
    config = {1: {1: name}, 2: {1: IMAGE}, 3: words[at + 1 :], 11: name + ".log"}
    for word in words[:at]:
        key, _, value = word.partition("=")
        if key == "ro":
            host, _, path = value.partition(":")
            config.setdefault(7, []).append({1: path, 2: host, 3: 1, 8: 1})
        elif key == "user":
            security[5] = {1: int(value)}
        elif key == "read-only":
            security[7] = 1
        elif key == "privileged":
            security[2] = 1
        else:
            sys.exit("cri.py: " + word)
    config[15] = {2: security}
    return call("CreateContainer", {1: pod, 2: config, 3: sandbox})[1][0].decode()


def main(verb, *words):
    if verb == "handlers":
        for handler in map(decode, call("Status", {})[3]):
            features = decode(handler.get(2, [b""])[0])
            print(handler.get(1, [b""])[0].decode(), features.get(1, [0])[0], features.get(2, [0])[0])
    elif verb == "run-pod":
        handler, name, kind = (words + ("",))[:3]
        pod = call("RunPodSandbox", {1: pod_config(name, kind)[0], 2: handler})[1][0].decode()
        with open("/tmp/pod-" + pod, "w") as file:
            file.write(f"{name} {kind}")
        print(pod)
    elif verb == "create":
        print(create(words[0], words[1], list(words[2:])))
    elif verb == "exec":
        done = call("ExecSync", {1: words[0], 2: list(words[1:]), 3: 20})
        sys.stdout.write(done.get(1, [b""])[0].decode())
        sys.stderr.write(done.get(2, [b""])[0].decode())
        sys.exit(done.get(3, [0])[0])
    elif verb == "state":
        status = decode(call("ContainerStatus", {1: words[0]})[1][0])
        print(["created", "running", f"exited {status.get(7, [0])[0]}", "unknown"][status.get(3, [0])[0]])
    elif verb == "update":
        number, _, value = words[1].partition("=")
        call("UpdateContainerResources", {1: words[0], 2: {int(number): int(value)}})
    elif verb == "pods":
        for pod in map(decode, call("ListPodSandbox", {}).get(1, [])):
            print(pod[1][0].decode())
    elif verb == "stats":
        print(len(decode(call("ContainerStats", {1: words[0]})[1][0])))
    else:
        method = {"start": "StartContainer", "stop": "StopContainer", "remove": "RemoveContainer",
                  "stop-pod": "StopPodSandbox", "remove-pod": "RemovePodSandbox"}[verb]
        call(method, {1: words[0], 2: 1} if verb == "stop" else {1: words[0]})


main(*sys.argv[1:])
