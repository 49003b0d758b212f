# podman and conmon, as root. The machine has no pids controller, so that podman's usual limit is turned off.

image=localhost/box

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    containers_conf
    useradd containers
    echo containers:1000000:1000000 >>/etc/subuid
    echo containers:1000000:1000000 >>/etc/subgid
    podman import -q /tmp/rootfs.tar $image
    # Pods have a container of their own; its image is built on the first use.
    podman pod create --name warm
    podman pod rm -f warm
}

clean() {
    p pod rm -fa -t 0
    p rm -fa -t 0
    p volume prune -f
    p secret rm -a
}

p() {
    podman --runtime "$program" "$@"
}

case_run() {
    is "$(run $image echo hello)" hello
}

case_exit_code() {
    fails 7 run $image sh -c 'exit 7'
    fails 143 run $image sh -c 'trap "exit 143" TERM; kill -TERM 1; sleep 9'
}

case_exit_125() {
    fails 125 run --no-such-flag $image true
    fails 125 run --annotation run.oci.hooks= --hooks-dir /tmp/no-hooks --volume /no/such/source:/data $image true
    fails 125 run --ulimit nofile=100:2000000000 $image true || is "$code" 126
}

case_exit_126() {
    fails 126 run $image /etc
    fails 126 run $image /etc/not-executable
}

case_exit_127() {
    fails 127 run $image no-such-program
    has "$said" 'executable file not found in $PATH'
    fails 127 run $image /no/such/program
    has "$said" 'no such file or directory'
}

case_missing_interpreter() {
    # The exit code is the runtime's own affair: it may know before or after `start`.
    fails 1 run $image no-interpreter || test "$code" -gt 1
    has "$said" 'no such file or directory'
}

case_stdin() {
    is "$(echo hello | run -i $image cat)" hello
}

case_stderr() {
    is "$(run $image sh -c 'echo hello >&2' 2>&1 >/dev/null)" hello
}

case_stdout_can_be_opened_again() {
    is "$(run --user 1000 $image sh -c 'echo hello >/dev/stdout')" hello
}

case_tty() {
    has "$(on_terminal "podman --runtime $program run --rm --network none -it $image sh -c 'tty; stty size'")" /dev/pts/0
}

case_detached_and_logs() {
    background $image sh -c 'echo out; echo err >&2; sleep 100'
    becomes out p logs box
    is "$(p logs box 2>&1 >/dev/null)" err
    p rm -f -t 0 box
}

case_exec() {
    background $image sleep 100
    is "$(p exec box echo hello)" hello
    fails 5 p exec box sh -c 'exit 5'
    is "$(p exec --user 1000 --workdir /data --env ONE=1 box sh -c 'id -u; pwd; echo $ONE')" "$(printf '1000\n/data\n1')"
    is "$(echo hello | p exec -i box cat)" hello
    p rm -f -t 0 box
}

case_exec_tty() {
    background $image sleep 100
    has "$(on_terminal "podman --runtime $program exec -it box tty")" /dev/pts/
    p rm -f -t 0 box
}

case_exec_detached() {
    background $image sleep 100
    p exec -d box touch /tmp/made
    eventually p exec box test -e /tmp/made
    p rm -f -t 0 box
}

case_exec_126_and_127() {
    background $image sleep 100
    fails 127 p exec box no-such-program
    has "$said" 'executable file not found in $PATH'
    fails 127 p exec box /no/such/program
    fails 126 p exec box /etc/not-executable
    is "$(p exec box echo hello)" hello
    p rm -f -t 0 box
}

case_exec_privileged() {
    background $image sleep 100
    if [ "$runtime" = orlop ]; then
        fails 255 p exec --privileged box true || is "$code" 126
        has "$said" "not in the container's bounding set"
        p rm -f -t 0 box
        differs "exec never has more than the container's bounding set"
    fi
    p exec --privileged box mount -t tmpfs none /data
    p rm -f -t 0 box
}

case_exec_in_stopped() {
    background $image true
    becomes exited status box
    fails 255 p exec box true || is "$code" 125
    p rm box
}

case_create_and_start() {
    p create --name box --network none $image sh -c 'echo hello' >/dev/null
    is "$(p start -a box)" hello
    is "$(p start -a box)" hello
    p rm box
}

case_stop() {
    background $image sh -c 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    becomes ready p logs box
    p stop box
    is "$(p inspect -f '{{.State.ExitCode}}' box)" 9
    p rm box
}

case_stop_that_is_not_heard() {
    background $image sleep 100
    p stop -t 1 box
    is "$(p inspect -f '{{.State.ExitCode}}' box)" 137
    p rm box
}

case_kill() {
    background $image sleep 100
    p kill box
    becomes exited status box
    is "$(p wait box)" 137
    fails 125 p kill box
    p rm box
}

case_restart() {
    background $image sleep 100
    first=$(p inspect -f '{{.State.Pid}}' box)
    p restart -t 0 box
    is "$(status box)" running
    fails 1 is "$(p inspect -f '{{.State.Pid}}' box)" "$first"
    p rm -f -t 0 box
}

case_restart_policy() {
    p run -d --name box --restart on-failure:2 --network none $image sh -c 'echo once; exit 1' >/dev/null
    becomes "$(printf 'once\nonce\nonce')" p logs box
    becomes exited status box
    p rm box
}

case_pause_and_unpause() {
    background $image sleep 100
    p pause box
    is "$(status box)" paused
    fails 255 p exec box true || is "$code" 125
    p unpause box
    is "$(p exec box echo hello)" hello
    p rm -f -t 0 box
}

case_remove_paused() {
    background $image sleep 100
    p pause box
    p rm -f -t 0 box
}

case_top_and_stats() {
    background $image sh -c 'sleep 200 & sleep 100'
    has "$(p top box)" 'sleep 200'
    p stats --no-stream box
    p rm -f -t 0 box
}

case_attach() {
    background -i $image sh -c 'read line; echo got $line; sleep 1'
    is "$(echo hello | p attach box)" 'got hello'
    p rm -f -t 0 box
}

case_copy_and_commit() {
    background $image sh -c 'echo hello >/data/file; sleep 100'
    eventually p exec box test -s /data/file
    is "$(p cp box:/data/file - | tar -xO)" hello
    p commit -q box localhost/changed
    is "$(run localhost/changed cat /data/file)" hello
    p rm -f -t 0 box
    p rmi -f localhost/changed
}

case_build() {
    mkdir -p /tmp/context
    printf 'FROM %s\nRUN echo hello >/made && id -u\nUSER 1000\nRUN id -u\nENTRYPOINT ["cat", "/made"]\n' $image >/tmp/context/Containerfile
    p build --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --no-cache -t localhost/built /tmp/context
    is "$(run localhost/built)" hello
    printf 'FROM %s\nRUN exit 7\n' $image >/tmp/context/Containerfile
    fails 7 p build --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --no-cache -t localhost/built /tmp/context
    p rmi -f localhost/built
}

case_userns_auto() {
    has "$(run --userns=auto:size=5000 $image cat /proc/self/uid_map)" 5000
    is "$(run --userns=auto --user 1000 $image sh -c 'echo hello >/tmp/file; stat -c %u /tmp/file')" 1000
}

case_userns_mapping() {
    is "$(run --uidmap 0:100000:5000 --gidmap 0:200000:5000 $image sh -c 'tr -s " " </proc/self/uid_map')" ' 0 100000 5000'
}

case_userns_exec() {
    background --uidmap 0:100000:5000 $image sleep 100
    is "$(p exec --user 1000 box id -u)" 1000
    is "$(stat -c %u "/proc/$(p inspect -f '{{.State.Pid}}' box)")" 100000
    p rm -f -t 0 box
}

case_read_only() {
    fails 1 run --read-only $image touch /file
    has "$said" 'read-only file system'
    run --read-only $image touch /tmp/file
    fails 1 run --read-only --read-only-tmpfs=false $image touch /dev/shm/file
}

case_volumes() {
    mkdir -p /tmp/bound
    run -v /tmp/bound:/data $image sh -c 'echo hello >/data/file'
    is "$(cat /tmp/bound/file)" hello
    fails 1 run -v /tmp/bound:/data:ro $image touch /data/file
    run -v named:/data $image sh -c 'echo hello >/data/file'
    is "$(run -v named:/data $image cat /data/file)" hello
    is "$(run -v /tmp/bound:/data:O $image sh -c 'echo changed >/data/file; cat /data/file')" changed
    is "$(cat /tmp/bound/file)" hello
    p volume rm named
}

case_volume_idmapped() {
    mkdir -p /tmp/bound
    echo hello >/tmp/bound/file
    is "$(run --uidmap 0:100000:5000 -v /tmp/bound:/data:idmap $image stat -c %u /data/file)" 0
}

case_volume_recursive_read_only() {
    mkdir -p /tmp/bound/below
    mount -t tmpfs none /tmp/bound/below
    trap 'umount /tmp/bound/below' EXIT
    fails 1 run --mount type=bind,source=/tmp/bound,destination=/data,ro=true,bind-nonrecursive=false $image touch /data/file
}

case_tmpfs() {
    has "$(run --tmpfs /data:size=1m,noexec $image mount)" 'size=1024k'
    has "$(run --mount type=tmpfs,destination=/data,tmpfs-mode=1770 $image stat -c %a /data)" 1770
    is "$(run --tmpfs /etc $image ls /etc/not-executable)" /etc/not-executable
}

case_image_volume() {
    is "$(run --mount type=image,source=$image,destination=/data $image ls /data/etc/passwd)" /data/etc/passwd
}

case_shared_memory() {
    has "$(run --shm-size 1m $image df /dev/shm)" ' 1024 '
    background --ipc shareable $image sh -c 'echo hello >/dev/shm/file; sleep 100'
    eventually p exec box test -s /dev/shm/file
    is "$(run --ipc container:box $image cat /dev/shm/file)" hello
    p rm -f -t 0 box
}

case_memory_limit() {
    is "$(run --memory 64m $image sh -c 'cat /sys/fs/cgroup/memory.max')" 67108864
}

case_cpu_limit() {
    is "$(run --cpus 0.5 $image cat /sys/fs/cgroup/cpu.max)" '50000 100000'
}

case_pids_limit() {
    is "$(run --pids-limit 50 $image cat /sys/fs/cgroup/pids.max)" 50
}

case_update() {
    background $image sleep 100
    p update --memory 64m box
    is "$(p exec box cat /sys/fs/cgroup/memory.max)" 67108864
    p rm -f -t 0 box
}

case_update_of_the_restart_policy() {
    background $image sleep 100
    p update --restart always box
    is "$(p inspect -f '{{.HostConfig.RestartPolicy.Name}}' box)" always
    p rm -f -t 0 box
}

case_ulimit() {
    is "$(run --ulimit nofile=100:200 $image sh -c 'ulimit -n; ulimit -Hn')" "$(printf '100\n200')"
}

case_oom_score() {
    is "$(run --oom-score-adj 500 $image cat /proc/self/oom_score_adj)" 500
}

case_capabilities() {
    is "$(run --cap-drop all $image grep CapBnd /proc/self/status | tr -s '\t' ' ')" 'CapBnd: 0000000000000000'
    run --cap-add sys_admin $image mount -t tmpfs none /data
    fails 1 run --cap-drop chown $image chown 1000 /tmp
}

case_privileged() {
    run --privileged $image sh -c 'mount -t tmpfs none /data && test -c /dev/fuse'
}

case_no_new_privileges() {
    has "$(run --security-opt no-new-privileges $image cat /proc/self/status)" "$(printf 'NoNewPrivs:\t1')"
}

case_seccomp() {
    has "$(run $image cat /proc/self/status)" "$(printf 'Seccomp:\t2')"
    has "$(run --security-opt seccomp=unconfined $image cat /proc/self/status)" "$(printf 'Seccomp:\t0')"
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}' >/tmp/profile
    fails 1 run --security-opt seccomp=/tmp/profile $image mkdir /tmp/made
    has "$said" 'function not implemented'
}

case_masked_paths() {
    is "$(run $image sh -c 'cat /proc/timer_list | wc -c')" 0
    run --security-opt unmask=ALL $image sh -c 'test $(cat /proc/timer_list | wc -c) -gt 0'
    fails 1 run --security-opt mask=/etc/passwd $image grep root /etc/passwd
}

case_user() {
    is "$(run --user 1000:1001 $image sh -c 'id -u; id -g')" "$(printf '1000\n1001')"
    is "$(run --user user $image id -un)" user
    has "$(run --group-add 4242 $image id -G)" 4242
    is "$(run --umask 0077 $image sh -c umask)" 0077
}

case_environment() {
    is "$(run --env ONE=1 --env TWO=2 $image sh -c 'echo $ONE $TWO')" '1 2'
    is "$(run $image env | grep -c _OCI_ || true)" 0
}

case_secret() {
    printf hello | p secret create word - >/dev/null
    is "$(run --secret word $image cat /run/secrets/word)" hello
    is "$(run --secret word,type=env,target=WORD $image sh -c 'echo $WORD')" hello
    is "$(run --secret word,uid=1000,mode=0400 $image stat -c '%u %a' /run/secrets/word)" '1000 400'
    p secret rm word
}

case_device() {
    run --device /dev/fuse $image test -c /dev/fuse
    run --device /dev/fuse:/dev/other:r $image test -c /dev/other
    fails 1 run $image sh -c 'mknod /tmp/fuse c 10 229 && exec 3<>/tmp/fuse'
}

case_hostname_and_sysctl() {
    is "$(run --hostname other $image hostname)" other
    is "$(run --sysctl net.ipv4.ip_forward=1 $image cat /proc/sys/net/ipv4/ip_forward)" 1
}

case_init() {
    has "$(run --init $image cat /proc/1/cmdline | tr '\0' ' ')" init
}

case_systemd_mode() {
    has "$(run --systemd always $image mount)" 'tmpfs on /run type tmpfs'
}

case_host_namespaces() {
    for kind in net pid ipc uts cgroup; do
        case $kind in net) flag=network ;; cgroup) flag=cgroupns ;; *) flag=$kind ;; esac
        is "$(p run --rm "--$flag" host $image readlink /proc/self/ns/$kind)" "$(readlink /proc/self/ns/$kind)"
    done
}

case_namespaces_of_another() {
    background $image sleep 100
    is "$(run --pid container:box $image cat /proc/1/cmdline | tr '\0' ' ')" 'sleep 100 '
    is "$(p run --rm --network container:box $image readlink /proc/self/ns/net)" "$(p exec box readlink /proc/self/ns/net)"
    p rm -f -t 0 box
}

case_cgroups_disabled() {
    run --cgroups disabled $image true
}

case_cgroups_split() {
    run --cgroups no-conmon $image true
}

case_cgroup_parent() {
    background --cgroupns host --cgroup-parent /machine $image sleep 100
    has "$(cat "/proc/$(p inspect -f '{{.State.Pid}}' box)/cgroup")" 0::/machine/
    p rm -f -t 0 box
}

case_network() {
    is "$(p run --rm $image sh -c 'ip -o -4 addr show eth0 | grep -c inet')" 1
}

case_network_port() {
    p run -d --name box -p 127.0.0.1:8080:80 $image sh -c 'mkdir /www && echo hello >/www/index.html && httpd -f -h /www' >/dev/null
    becomes hello busybox wget -qO - http://127.0.0.1:8080/
    p rm -f -t 0 box
}

case_pod() {
    p pod create --name pod --network none >/dev/null
    p run -d --pod pod --name box $image sleep 100 >/dev/null
    is "$(p run --rm --pod pod $image readlink /proc/self/ns/net)" "$(p exec box readlink /proc/self/ns/net)"
    p pod pause pod
    p pod unpause pod
    p pod stop -t 0 pod
    p pod start pod
    is "$(p exec box echo hello)" hello
    p pod rm -f -t 0 pod
}

case_pod_with_one_pid_namespace() {
    p pod create --name pod --network none --share net,ipc,uts,pid >/dev/null
    p run -d --pod pod --name box $image sleep 100 >/dev/null
    has "$(p run --rm --pod pod $image ps)" 'sleep 100'
    p pod rm -f -t 0 pod
}

case_kube_play() {
    cat >/tmp/pod.yaml <<EOF
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  initContainers:
  - {name: first, image: $image, imagePullPolicy: Never, command: [sh, -c, "echo hello >/shared/file"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: box
    image: $image
    imagePullPolicy: Never
    command: [sleep, "100"]
    securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes:
  - {name: shared, emptyDir: {}}
EOF
    p kube play --network none /tmp/pod.yaml
    is "$(p exec pod-box sh -c 'cat /shared/file; id -u')" "$(printf 'hello\n1000')"
    p kube down --force /tmp/pod.yaml
}

case_healthcheck() {
    background --health-cmd 'test -e /tmp/well' --health-interval disable --health-retries 1 $image sleep 100
    fails 1 p healthcheck run box
    p exec box touch /tmp/well
    p healthcheck run box
    is "$(p inspect -f '{{.State.Health.Status}}' box)" healthy
    p rm -f -t 0 box
}

case_hooks() {
    mkdir -p /tmp/hooks.d
    for stage in prestart createRuntime poststart poststop; do
        cat >/tmp/hooks.d/$stage.json <<EOF
{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; echo $stage >>/tmp/hooks"]},"when":{"always":true},"stages":["$stage"]}
EOF
    done
    rm -f /tmp/hooks
    is "$(p --hooks-dir /tmp/hooks.d run --rm --network none $image echo hello)" hello
    eventually grep poststop /tmp/hooks
    is "$(sort /tmp/hooks)" "$(printf 'createRuntime\npoststart\npoststop\nprestart')"
}

case_failing_hook() {
    mkdir -p /tmp/hooks.e
    echo '{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","echo for a reason >&2; exit 3"]},"when":{"always":true},"stages":["createRuntime"]}' >/tmp/hooks.e/hook.json
    fails 126 p --hooks-dir /tmp/hooks.e run --rm --network none $image true || is "$code" 125
    has "$said" 'for a reason'
}

case_preserved_descriptors() {
    is "$(run --preserve-fds 1 $image sh -c 'cat <&3' 3</tmp/rootfs/etc/group | head -n 1)" root:x:0:
}

case_socket_activation() {
    is "$(LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=some sh -c 'LISTEN_PID=$$ exec "$@"' sh \
        podman --runtime "$program" run --rm --network none $image sh -c 'echo $LISTEN_FDS; cat <&3 | head -n 1' \
        3</tmp/rootfs/etc/group)" "$(printf '1\nroot:x:0:')"
}

case_notify_socket() {
    python3 - <<'EOF' &
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/tmp/notify")
s.settimeout(20)
said = b""
while b"READY=1" not in said:
    said += s.recv(4096) + b"\n"
open("/tmp/notified", "wb").write(said)
EOF
    eventually test -S /tmp/notify
    NOTIFY_SOCKET=/tmp/notify p run -d --name box --sdnotify conmon --network none $image sleep 100 >/dev/null
    eventually grep READY=1 /tmp/notified
    p rm -f -t 0 box
    rm /tmp/notify /tmp/notified
}

case_checkpoint_and_restore() {
    background $image sh -c 'i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; sleep 0.1; done'
    eventually p exec box test -s /tmp/count
    p container checkpoint box
    is "$(status box)" exited
    p container restore box
    # The file is empty for a moment each time it is written.
    eventually p exec box sh -c 'test $(cat /tmp/count) -gt 3'
    p rm -f -t 0 box
}

case_checkpoint_to_a_file() {
    background $image sh -c 'i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; sleep 0.1; done'
    eventually p exec box test -s /tmp/count
    p container checkpoint --leave-running --export /tmp/saved.tar box
    is "$(status box)" running
    p rm -f -t 0 box
    p container restore --import /tmp/saved.tar
    # The file is empty for a moment each time it is written.
    eventually p exec box sh -c 'test $(cat /tmp/count) -gt 3'
    p rm -f -t 0 box
}

case_ten_at_once() {
    for i in $(seq 10); do
        run $image sh -c 'exit 6' &
        eval "pid$i=$!"
    done
    for i in $(seq 10); do
        code=0
        eval "wait \$pid$i" || code=$?
        is "$code" 6
    done
}

case_info() {
    has "$(p info)" "path: $program"
}
