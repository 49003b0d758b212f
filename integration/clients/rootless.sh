# podman of an ordinary user, who has ranges in /etc/subuid and /etc/subgid and no cgroup of his own.

image=localhost/box

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    containers_conf
    useradd -m -u 1000 someone
    echo someone:300000:131072 >/etc/subuid
    echo someone:300000:131072 >/etc/subgid
    mkdir -p -m 711 /run/user
    mkdir -m 700 /run/user/1000
    chown someone /run/user/1000
    as podman import -q /tmp/rootfs.tar $image
    as podman pod create --name warm
    as podman pod rm -f warm
}

clean() {
    p pod rm -fa -t 0
    p rm -fa -t 0
    p volume prune -f
    p secret rm -a
}

as() {
    (
        cd /home/someone
        HOME=/home/someone XDG_RUNTIME_DIR=/run/user/1000 exec setpriv --reuid 1000 --regid 1000 --init-groups "$@"
    )
}

p() {
    as podman --runtime "$program" "$@"
}

case_run() {
    is "$(run $image id -u)" 0
    fails 7 run $image sh -c 'exit 7'
}

case_exit_126_and_127() {
    fails 126 run $image /etc/not-executable
    fails 127 run $image no-such-program
    fails 127 run $image /no/such/program
}

case_ids() {
    is "$(run $image sh -c 'tr -s " " </proc/self/uid_map')" "$(printf ' 0 1000 1\n 1 300000 131072')"
}

case_keep_id() {
    is "$(run --userns keep-id $image id -u)" 1000
    is "$(run --userns keep-id:uid=200,gid=210 $image sh -c 'id -u; id -g')" "$(printf '200\n210')"
}

case_userns_auto() {
    has "$(run --userns auto:size=5000 $image cat /proc/self/uid_map)" 5000
}

case_nomap() {
    run --userns nomap $image true
}

case_user() {
    is "$(run --user 1000 $image sh -c 'id -u; echo hello >/tmp/file; stat -c %u /tmp/file')" "$(printf '1000\n1000')"
}

case_stdin() {
    is "$(echo hello | run -i $image cat)" hello
}

case_tty() {
    has "$(on_terminal "cd /home/someone; HOME=/home/someone XDG_RUNTIME_DIR=/run/user/1000 setpriv --reuid 1000 --regid 1000 \
        --init-groups podman --runtime $program run --rm --network none -it $image tty")" /dev/pts/0
}

case_detached_and_exec() {
    background $image sh -c 'echo hello; sleep 100'
    becomes hello p logs box
    is "$(p exec box echo hello)" hello
    fails 5 p exec box sh -c 'exit 5'
    fails 127 p exec box no-such-program
    p rm -f -t 0 box
}

case_stop() {
    background $image sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    becomes ready p logs box
    p stop box
    is "$(p inspect -f '{{.State.ExitCode}}' box)" 9
    p rm box
}

case_kill() {
    background $image sleep 100
    p kill box
    becomes exited status box
    is "$(p wait box)" 137
    p rm box
}

case_restart() {
    background $image sleep 100
    p restart -t 0 box
    is "$(status box)" running
    p rm -f -t 0 box
}

case_volumes() {
    as mkdir -p /home/someone/bound
    run -v /home/someone/bound:/data $image sh -c 'echo hello >/data/file'
    is "$(stat -c %u /home/someone/bound/file)" 1000
    fails 1 run -v /home/someone/bound:/data:ro $image touch /data/file
    run -v named:/data $image sh -c 'echo hello >/data/file'
    p volume rm named
}

case_read_only() {
    fails 1 run --read-only $image touch /file
    has "$said" 'read-only file system'
}

case_build() {
    as mkdir -p /home/someone/context
    printf 'FROM %s\nRUN echo hello >/made && id -u\nENTRYPOINT ["cat", "/made"]\n' $image >/home/someone/context/Containerfile
    p build --network none --no-cache -t localhost/built /home/someone/context
    is "$(run localhost/built)" hello
    p rmi -f localhost/built
}

case_pod() {
    p pod create --name pod --network none >/dev/null
    p run -d --pod pod --name box $image sleep 100 >/dev/null
    is "$(p run --rm --pod pod $image readlink /proc/self/ns/net)" "$(p exec box readlink /proc/self/ns/net)"
    p pod rm -f -t 0 pod
}

case_secret() {
    printf hello | p secret create word - >/dev/null
    is "$(run --secret word $image cat /run/secrets/word)" hello
    p secret rm word
}

case_healthcheck() {
    background --health-cmd 'test -e /tmp/well' --health-interval disable --health-retries 1 $image sleep 100
    fails 1 p healthcheck run box
    p exec box touch /tmp/well
    p healthcheck run box
    p rm -f -t 0 box
}

case_host_network() {
    is "$(p run --rm --network host $image readlink /proc/self/ns/net)" "$(readlink /proc/self/ns/net)"
}

case_host_pid() {
    is "$(run --pid host $image readlink /proc/self/ns/pid)" "$(readlink /proc/self/ns/pid)"
}

case_privileged() {
    run --privileged $image mount -t tmpfs none /data
}

case_pause() {
    background $image sleep 100
    p pause box
    p unpause box
    p rm -f -t 0 box
}

case_limits() {
    run --memory 64m $image true
}

case_cgroups_disabled() {
    run --cgroups disabled $image true
}

case_devices() {
    run --device /dev/fuse $image test -c /dev/fuse
}

case_preserved_descriptors() {
    is "$(run --preserve-fds 1 $image sh -c 'cat <&3' 3</tmp/rootfs/etc/group | head -n 1)" root:x:0:
}
