# Clients on a machine of systemd's with every controller of cgroup v2, as the VM is: `vm/run clients`. podman with both
# of its cgroup managers, as root and in a user's session, and containerd's shim with systemd scopes.

image=localhost/box:latest

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    containers_conf
    sed -i '/^pids_limit/d; /^cgroup_manager/d' /etc/containers/containers.conf
    podman import -q /tmp/rootfs.tar $image
    podman save -q -o /tmp/box.tar $image
    useradd -m -u 1000 someone
    echo someone:300000:131072 >/etc/subuid
    echo someone:300000:131072 >/etc/subgid
    loginctl enable-linger someone
    eventually test -S /run/user/1000/bus
    chmod 644 /tmp/rootfs.tar
    as podman import -q /tmp/rootfs.tar $image
    containerd >>/tmp/containerd.log 2>&1 &
    eventually ctr version
    ctr image import /tmp/box.tar
}

# A machine of systemd's has units that come and go.
leftovers() {
    echo what is left:
    find /sys/fs/cgroup -mindepth 1 -type d | grep -E 'libpod-[0-9a-f]|crio-|nested|box' || true
    systemctl list-units --all --plain --no-legend 'libpod-*' 'box*' 'nested*' | cut -d' ' -f1
    for state in /run/runc /run/orlop /run/containerd/runc/*; do ls -d "$state"/* 2>/dev/null || true; done
}

clean() {
    p rm -fa -t 0
    as podman --runtime "$program" rm -fa -t 0
    ctr task kill -s KILL box
    ctr task rm -f box
    ctr container rm box
}

manager=systemd

# Ends a case where orlop has no driver for systemd's cgroups.
needs_driver() {
    [ "$runtime" != orlop ] || "$program" features | grep -q '"systemd": *true' || differs 'no systemd cgroup driver yet'
}

p() {
    podman --cgroup-manager "$manager" --runtime "$program" "$@"
}

as() {
    (
        cd /home/someone
        USER=someone HOME=/home/someone XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus \
            exec setpriv --reuid 1000 --regid 1000 --init-groups "$@"
    )
}

limits='--memory 64m --pids-limit 50 --cpus 0.5'
look='cd /sys/fs/cgroup; cat memory.max pids.max cpu.max'
seen='67108864
50
50000 100000'

cgroup_of() {
    sed -n 's/^0:://p' "/proc/$1/cgroup"
}

case_podman_cgroupfs_limits() {
    manager=cgroupfs
    # shellcheck disable=SC2086 # a list of words
    is "$(p run --rm --network none $limits $image sh -c "$look")" "$seen"
}

case_podman_systemd_scope() {
    needs_driver
    # shellcheck disable=SC2086
    p run -d --name box --network none $limits $image sleep 1000
    id=$(p inspect -f '{{.Id}}' box)
    group=$(cgroup_of "$(p inspect -f '{{.State.Pid}}' box)")
    has "$group" "/machine.slice/libpod-$id.scope"
    is "$(p exec box sh -c "$look")" "$seen"
    has "$(systemctl show -p MemoryMax -p TasksMax "libpod-$id.scope")" MemoryMax=67108864
    has "$(systemctl show -p TasksMax "libpod-$id.scope")" TasksMax=50
    p update --memory 128m box
    is "$(p exec box cat /sys/fs/cgroup/memory.max)" 134217728
    has "$(systemctl show -p MemoryMax "libpod-$id.scope")" MemoryMax=134217728
    p pause box
    p unpause box
    p rm -f -t 0 box
    is "$(systemctl list-units --all --plain --no-legend "libpod-$id.scope")" ''
}

case_podman_systemd_oom() {
    needs_driver
    # /dev/zero into a variable: the shell's memory.
    fails 137 p run --name box --network none --memory 16m --memory-swap 16m $image \
        sh -c 'dd if=/dev/zero of=/dev/shm/a bs=1M count=1; exec tail /dev/zero'
    is "$(p inspect -f '{{.State.OOMKilled}}' box)" true
    p rm -f box
}

case_podman_systemd_reload() {
    needs_driver
    p run -d --name box --network none --device /dev/vdb:/dev/disk:r $image sleep 1000
    p exec box dd if=/dev/disk of=/dev/null bs=512 count=1
    systemctl daemon-reload
    p exec box dd if=/dev/disk of=/dev/null bs=512 count=1
    fails 1 p exec box dd if=/dev/zero of=/dev/disk bs=512 count=1
    p rm -f -t 0 box
}

case_rootless_session() {
    needs_driver
    # shellcheck disable=SC2086
    is "$(as podman --cgroup-manager systemd --runtime "$program" run --rm --network none $limits $image sh -c "$look")" "$seen"
}

case_rootless_session_scope() {
    needs_driver
    as podman --runtime "$program" run -d --name box --network none $image sleep 1000
    group=$(cgroup_of "$(as podman inspect -f '{{.State.Pid}}' box)")
    has "$group" /user.slice/user-1000.slice/user@1000.service/user.slice/libpod-
    as podman --runtime "$program" rm -f -t 0 box
}

ctr_run() {
    ctr run --runtime io.containerd.runc.v2 --runc-binary "$program" --runc-systemd-cgroup "$@"
}

case_containerd_systemd_nested_slices() {
    needs_driver
    ctr_run -d --memory-limit 67108864 --cgroup nested-burstable-pod1.slice:cri-containerd:box $image box sleep 1000
    group=$(cgroup_of "$(ctr task ls | awk '$1 == "box" { print $2 }')")
    is "$group" /nested.slice/nested-burstable.slice/nested-burstable-pod1.slice/cri-containerd-box.scope
    is "$(ctr task exec --exec-id one box cat /sys/fs/cgroup/memory.max)" 67108864
    has "$(systemctl show -p MemoryMax cri-containerd-box.scope)" MemoryMax=67108864
    ctr task kill -s KILL box
    eventually sh -c 'ctr task ls | grep -q STOPPED'
    ctr task rm box
    ctr container rm box
    is "$(systemctl list-units --all --plain --no-legend cri-containerd-box.scope)" ''
    # The slices are the kubelet's.
    systemctl stop nested-burstable-pod1.slice nested-burstable.slice nested.slice
}
