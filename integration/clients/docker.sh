# Docker with its own containerd, without a bridge: the machine has no network but loopback.

image=localhost/box:latest

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    mkdir -p /etc/docker
    cat >/etc/docker/daemon.json <<'EOF'
{
  "runtimes": {"orlop": {"path": "/usr/local/bin/orlop"}},
  "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "bridge": "none", "iptables": false, "ip6tables": false
}
EOF
    dockerd >/tmp/dockerd.log 2>&1 &
    eventually docker version
    docker import /tmp/rootfs.tar $image
}

clean() {
    for id in $(docker ps -aq); do
        docker rm -f "$id"
    done
}

create() {
    verb=$1
    shift
    docker "$verb" --runtime "$runtime" --network none "$@"
}

run() {
    create run --rm "$@"
}

background() {
    create run -d --name box "$@" >/dev/null
}

status() {
    docker inspect -f '{{.State.Status}}' "$1"
}

case_run() {
    is "$(run $image echo hello)" hello
}

case_exit_codes() {
    fails 7 run $image sh -c 'exit 7'
    fails 127 run $image no-such-program
    has "$said" 'executable file not found in $PATH'
    fails 127 run $image /no/such/program
    fails 126 run $image /etc/not-executable
    fails 143 run $image sh -c 'trap "exit 143" TERM; kill -TERM 1; sleep 9'
}

case_stdin() {
    is "$(echo hello | run -i $image cat)" hello
}

case_tty() {
    has "$(on_terminal "docker run --rm --runtime $runtime --network none -it $image tty")" /dev/pts/0
}

case_detached_and_logs() {
    background $image sh -c 'echo out; echo err >&2; sleep 100'
    becomes out docker logs box
    is "$(docker logs box 2>&1 >/dev/null)" err
    docker rm -f box
}

case_exec() {
    background $image sleep 100
    is "$(docker exec box echo hello)" hello
    fails 5 docker exec box sh -c 'exit 5'
    is "$(docker exec --user 1000 --workdir /data box sh -c 'id -u; pwd')" "$(printf '1000\n/data')"
    fails 127 docker exec box no-such-program
    fails 126 docker exec box /etc/not-executable
    docker rm -f box
}

case_exec_privileged() {
    background $image sleep 100
    if [ "$runtime" = orlop ]; then
        fails 126 docker exec --privileged box true || is "$code" 128
        has "$said" "not in the container's bounding set"
        docker rm -f box
        differs "exec never has more than the container's bounding set"
    fi
    docker exec --privileged box true
    docker rm -f box
}

case_stop_and_kill() {
    background $image sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    becomes ready docker logs box
    docker stop box
    is "$(docker inspect -f '{{.State.ExitCode}}' box)" 9
    docker start box
    docker kill box
    is "$(docker wait box)" 137
    docker rm box
}

case_restart() {
    background $image sleep 100
    docker restart -t 0 box
    is "$(status box)" running
    docker rm -f box
}

case_pause_and_unpause() {
    background $image sleep 100
    docker pause box
    is "$(status box)" paused
    docker unpause box
    is "$(docker exec box echo hello)" hello
    docker rm -f box
}

case_top_and_stats() {
    background $image sh -c 'sleep 200 & sleep 100'
    has "$(docker top box)" 'sleep 200'
    docker stats --no-stream box
    docker rm -f box
}

case_update() {
    background $image sleep 100
    docker update --memory 64m --memory-swap 64m box
    is "$(docker exec box cat /sys/fs/cgroup/memory.max)" 67108864
    docker rm -f box
}

case_read_only_and_volumes() {
    mkdir -p /tmp/bound
    fails 1 run --read-only $image touch /file
    run -v /tmp/bound:/data $image sh -c 'echo hello >/data/file'
    is "$(cat /tmp/bound/file)" hello
    fails 1 run -v /tmp/bound:/data:ro $image touch /data/file
    has "$(run --tmpfs /data:size=1m $image mount)" 'size=1024k'
}

case_capabilities_and_privileged() {
    is "$(run --cap-drop ALL $image grep CapBnd /proc/self/status | tr -s '\t' ' ')" 'CapBnd: 0000000000000000'
    run --cap-add SYS_ADMIN --security-opt apparmor=unconfined $image mount -t tmpfs none /data
    run --privileged $image mount -t tmpfs none /data
}

case_seccomp() {
    has "$(run $image cat /proc/self/status)" "$(printf 'Seccomp:\t2')"
    fails 1 run $image unshare -U true
    has "$(run --security-opt seccomp=unconfined $image cat /proc/self/status)" "$(printf 'Seccomp:\t0')"
}

case_namespaces() {
    background $image sleep 100
    is "$(run --pid container:box $image cat /proc/1/cmdline | tr '\0' ' ')" 'sleep 100 '
    is "$(docker run --rm --runtime "$runtime" --network container:box $image readlink /proc/self/ns/net)" \
        "$(docker exec box readlink /proc/self/ns/net)"
    docker rm -f box
    is "$(run --pid host $image readlink /proc/self/ns/pid)" "$(readlink /proc/self/ns/pid)"
}

case_healthcheck() {
    background --health-cmd 'test -e /tmp/well' --health-interval 1s $image sleep 100
    docker exec box touch /tmp/well
    becomes healthy docker inspect -f '{{.State.Health.Status}}' box
    docker rm -f box
}

case_daemon_restarts() {
    background --stop-signal KILL $image sleep 100
    kill -TERM "$(cat /var/run/docker.pid)"
    eventually sh -c '! pgrep -x dockerd'
    dockerd >>/tmp/dockerd.log 2>&1 &
    eventually docker version
    is "$(status box)" exited
    docker start box
    is "$(docker exec box echo hello)" hello
    docker rm -f box
}
