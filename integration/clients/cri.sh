# containerd as Kubernetes calls it: the pods of a RuntimeClass, over CRI.

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    podman import -q -c 'ENV PATH=/bin' /tmp/rootfs.tar localhost/box
    podman import -q -c 'CMD ["/bin/sleep","1000000"]' /tmp/rootfs.tar localhost/pause
    podman save -q -m -o /tmp/images.tar localhost/box localhost/pause
    podman rmi -fa

    mkdir -p /etc/containerd /opt/cni/bin /etc/cni/net.d /tmp/logs
    cat >/etc/containerd/config.toml <<EOF
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'localhost/pause:latest'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
EOF
    for name in runc orlop; do
        # A pod always asks for CPU shares, which nothing can be told of without a cpu controller.
        binary=$(program $name)
        if ! grep -qw cpu /sys/fs/cgroup/cgroup.controllers; then
            printf '%s\n' '#!/bin/sh' \
                'case " $* " in *" create "*) sed -i "s/\"cpu\":{[^}]*}/\"cpu\":{}/" config.json ;; esac' \
                "exec $binary \"\$@\"" >/tmp/without-shares-$name
            chmod 755 /tmp/without-shares-$name
            binary=/tmp/without-shares-$name
        fi
        cat >>/etc/containerd/config.toml <<EOF
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.$name]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.$name.options]
BinaryName = '$binary'
EOF
    done
    # A network that gives each pod an address and no interface.
    cat >/etc/cni/net.d/10-none.conf <<'EOF'
{"cniVersion":"1.0.0","name":"none","type":"none"}
EOF
    cat >/opt/cni/bin/none <<'EOF'
#!/bin/sh
case $CNI_COMMAND in
ADD) printf '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"%s"}],"ips":[{"address":"10.9.0.2/24","interface":0}]}' "$CNI_NETNS" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
EOF
    chmod 755 /opt/cni/bin/none
    ln -s none /opt/cni/bin/loopback
    containerd >/tmp/containerd.log 2>&1 &
    eventually ctr version
    ctr -n k8s.io image import /tmp/images.tar
    eventually cri handlers
}

clean() {
    for pod in $(cri pods); do
        cri stop-pod "$pod"
        cri remove-pod "$pod"
    done
}

cri() {
    python3 "$here/cri.py" "$@"
}

# A running container in a new pod; the ids are in $pod and $id.
up() {
    rm -f /tmp/logs/box.log
    kind=$1
    shift
    pod=$(cri run-pod "$runtime" pod "$kind")
    id=$(cri create "$pod" box "$@")
    cri start "$id"
}

down() {
    cri stop "$id"
    cri remove "$id"
    cri stop-pod "$pod"
    cri remove-pod "$pod"
}

case_features() {
    # Recursive read-only mounts and user namespaces: without them the kubelet refuses pods that ask for them.
    has "$(cri handlers)" "$runtime 1 1"
}

case_pod() {
    up '' -- sh -c 'echo hello; sleep 1000'
    is "$(cri state "$id")" running
    eventually grep hello /tmp/logs/box.log
    is "$(cri exec "$id" hostname)" pod
    down
}

case_exit_code() {
    up '' -- sh -c 'exit 7'
    becomes 'exited 7' cri state "$id"
    down
}

case_exec() {
    up '' -- sleep 1000
    is "$(cri exec "$id" echo hello)" hello
    fails 5 cri exec "$id" sh -c 'exit 5'
    fails 1 cri exec "$id" no-such-program
    has "$said" 'executable file not found in $PATH'
    down
}

case_missing_program() {
    pod=$(cri run-pod "$runtime" pod)
    id=$(cri create "$pod" box -- no-such-program)
    fails 1 cri start "$id"
    has "$said" 'executable file not found in $PATH'
    cri remove "$id"
    cri stop-pod "$pod"
    cri remove-pod "$pod"
}

case_stop_is_a_signal_first() {
    up '' -- sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    eventually grep ready /tmp/logs/box.log
    cri stop "$id"
    becomes 'exited 9' cri state "$id"
    down
}

case_two_containers_share_the_pod() {
    up '' -- sleep 1000
    second=$(cri create "$pod" second -- sleep 1000)
    cri start "$second"
    for kind in net ipc uts; do
        is "$(cri exec "$id" readlink /proc/self/ns/$kind)" "$(cri exec "$second" readlink /proc/self/ns/$kind)"
    done
    down
}

case_user_namespace() {
    up userns -- sleep 1000
    is "$(cri exec "$id" sh -c 'tr -s " " </proc/self/uid_map')" ' 0 100000 65536'
    is "$(cri exec "$id" stat -c %u /bin/busybox)" 0
    down
}

case_host_namespaces() {
    up host -- sleep 1000
    for kind in net pid ipc; do
        is "$(cri exec "$id" readlink /proc/self/ns/$kind)" "$(readlink /proc/self/ns/$kind)"
    done
    down
}

case_security_context() {
    up '' user=1000 read-only -- sleep 1000
    is "$(cri exec "$id" id -u)" 1000
    fails 1 cri exec "$id" touch /tmp/file
    has "$said" 'read-only file system'
    down
}

case_recursive_read_only_mount() {
    mkdir -p /tmp/volume/below
    mount -t tmpfs none /tmp/volume/below
    trap 'umount /tmp/volume/below' EXIT
    up '' ro=/tmp/volume:/data -- sleep 1000
    fails 1 cri exec "$id" touch /data/file
    fails 1 cri exec "$id" touch /data/below/file
    has "$said" 'read-only file system'
    down
}

case_privileged_exec_stays_in_its_container() {
    up '' -- sleep 1000
    is "$(cri exec "$id" grep CapEff /proc/self/status)" "$(cri exec "$id" grep CapEff /proc/1/status)"
    down
}

case_stats() {
    up '' -- sleep 1000
    cri stats "$id"
    down
}

case_update() {
    up '' -- sleep 1000
    cri update "$id" 4=67108864
    is "$(cri exec "$id" cat /sys/fs/cgroup/memory.max)" 67108864
    down
}

case_pod_is_stopped_with_its_containers() {
    up '' -- sleep 1000
    cri stop-pod "$pod"
    becomes 'exited 137' cri state "$id"
    cri remove-pod "$pod"
}
