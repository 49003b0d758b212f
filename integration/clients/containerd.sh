# containerd and its shim, driven by ctr. The machine has no cpu controller, and ctr asks for CPU shares unless told not to.

image=localhost/box:latest

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    podman import -q /tmp/rootfs.tar localhost/box
    podman save -q -o /tmp/box.tar localhost/box
    podman rmi -f localhost/box
    serve
    ctr image import /tmp/box.tar
}

serve() {
    containerd >>/tmp/containerd.log 2>&1 &
    echo $! >/tmp/containerd.pid
    eventually ctr version
}

clean() {
    for id in $(ctr task ls -q); do
        ctr task kill -s KILL "$id"
        ctr task rm -f "$id"
    done
    for id in $(ctr container ls -q); do
        ctr container rm "$id"
    done
}

run() {
    ctr run --cpu-shares 0 --runtime io.containerd.runc.v2 --runc-binary "$program" "$@"
}

background() {
    run -d "$@"
}

status() {
    ctr task ls | awk -v id="$1" '$1 == id { print $3 }'
}

remove() {
    for id in "$@"; do
        ctr task kill -s KILL "$id" || true
        becomes STOPPED status "$id"
        ctr task rm "$id"
        ctr container rm "$id"
    done
}

# The task ends, or has ended, with this exit code.
ended() {
    becomes STOPPED status "$1"
    has "$(ctr task rm "$1" 2>&1)" "exit code $2"
    ctr container rm "$1"
}

case_run() {
    is "$(run --rm $image box echo hello)" hello
}

case_exit_code() {
    fails 7 run --rm $image box sh -c 'exit 7'
}

case_killed_by_signal() {
    fails 143 run --rm $image box sh -c 'trap "exit 143" TERM; kill -TERM 1; sleep 9'
}

case_stdin() {
    is "$({ echo hello; sleep 1; } | run --rm $image box cat)" hello
}

case_stderr() {
    is "$(run --rm $image box sh -c 'echo hello >&2' 2>&1 >/dev/null)" hello
}

case_stdout_can_be_opened_again() {
    is "$(run --rm --user 1000 $image box sh -c 'echo hello >/dev/stdout')" hello
}

case_tty() {
    has "$(on_terminal "$(declare_run) -t --rm $image box sh -c 'tty; stty size'")" /dev/pts/0
}

case_tty_detached() {
    on_terminal "$(declare_run) -d -t $image box sleep 100"
    has "$(on_terminal "ctr task exec -t --exec-id one box tty")" /dev/pts/1
    remove box
}

case_detached() {
    background $image box sleep 100
    is "$(status box)" RUNNING
    remove box
    is "$(status box)" ''
}

case_exit_of_detached() {
    background $image box sh -c 'exit 3'
    ended box 3
}

case_exec() {
    background $image box sleep 100
    is "$(ctr task exec --exec-id one box echo hello)" hello
    fails 5 ctr task exec --exec-id two box sh -c 'exit 5'
    is "$(ctr task exec --exec-id three --user 1000 --cwd /data box sh -c 'id -u; pwd')" "$(printf '1000\n/data')"
    remove box
}

case_exec_is_confined_as_init_is() {
    background --seccomp $image box sh -c 'cat /proc/self/status >/tmp/status; sleep 100'
    for field in CapEff CapBnd NoNewPrivs Seccomp; do
        is "$(ctr task exec --exec-id "$field" box grep "^$field:" /proc/self/status)" \
            "$(ctr task exec --exec-id "init$field" box grep "^$field:" /tmp/status)"
    done
    remove box
}

case_exec_detached() {
    background $image box sleep 100
    ctr task exec -d --exec-id one box sleep 200
    eventually has "$(ctr task ps box)" one
    remove box
}

case_exec_killed() {
    background $image box sleep 100
    ctr task exec -d --exec-id one box sleep 200
    ctr task kill --exec-id one -s KILL box
    is "$(status box)" RUNNING
    remove box
}

case_exec_missing_program() {
    background $image box sleep 100
    fails 1 ctr task exec --exec-id one box no-such-program
    has "$said" 'executable file not found in $PATH'
    fails 1 ctr task exec --exec-id two box /no/such/program
    has "$said" 'no such file or directory'
    is "$(ctr task exec --exec-id three box echo still here)" 'still here'
    remove box
}

case_exec_in_stopped() {
    background $image box true
    becomes STOPPED status box
    fails 1 ctr task exec --exec-id one box true
    ctr task rm box
    ctr container rm box
}

case_missing_program() {
    fails 1 run --rm $image box no-such-program
    has "$said" 'executable file not found in $PATH'
}

case_missing_path() {
    fails 1 run --rm $image box /no/such/program
    has "$said" 'no such file or directory'
}

case_directory_as_program() {
    fails 1 run --rm $image box /etc
    has "$said" 'exec: "/etc"'
}

case_not_executable() {
    fails 1 run --rm $image box /etc/not-executable
    has "$said" 'permission denied'
}

case_kill() {
    background $image box sh -c 'trap "exit 9" TERM; : >/tmp/ready; while :; do sleep 0.1; done'
    eventually test -e "/proc/$(pid_of box)/root/tmp/ready"
    ctr task kill -s TERM box
    ended box 9
}

case_kill_stopped() {
    background $image box true
    becomes STOPPED status box
    fails 1 ctr task kill box
    ctr task rm box
    ctr container rm box
}

case_kill_all() {
    background $image box sh -c 'sleep 200 & sleep 100'
    ctr task kill --all -s KILL box
    ended box 137
}

case_kill_all_in_the_host_pid_namespace() {
    background --with-ns pid:/proc/1/ns/pid $image box sh -c 'sleep 4321 & sleep 4321'
    ctr task kill --all -s KILL box
    ended box 137
    eventually sh -c '! pgrep -f "sleep 432[1]"'
}

case_delete_running_by_force() {
    background $image box sleep 100
    fails 1 ctr task rm box
    ctr task rm -f box || is "$?" 137
    ctr container rm box
}

case_pause_and_resume() {
    background $image box sh -c 'i=0; while :; do i=$((i + 1)); echo $i >/tmp/now; sleep 0.1; done'
    eventually test -s "/proc/$(pid_of box)/root/tmp/now"
    ctr task pause box
    is "$(status box)" PAUSED
    now=$(cat "/proc/$(pid_of box)/root/tmp/now")
    sleep 0.5
    is "$(cat "/proc/$(pid_of box)/root/tmp/now")" "$now"
    ctr task resume box
    is "$(status box)" RUNNING
    eventually sh -c "test \"\$(cat /proc/$(pid_of box)/root/tmp/now)\" != '$now'"
    remove box
}

case_kill_paused() {
    background $image box sleep 100
    ctr task pause box
    ctr task kill -s KILL box
    ended box 137
}

case_exec_in_paused() {
    background $image box sleep 100
    ctr task pause box
    fails 1 timeout 20 ctr task exec --exec-id one box true
    ctr task resume box
    remove box
}

case_metrics() {
    background $image box sleep 100
    has "$(ctr task metrics --format json box)" '"hugetlb"'
    remove box
}

case_ps() {
    background $image box sh -c 'sleep 200 & sleep 100'
    becomes 2 sh -c "ctr task ps box | grep -c '^[0-9]'"
    remove box
}

case_userns() {
    is "$(run --rm --uidmap 0:100000:65536 --gidmap 0:200000:65536 $image box sh -c 'tr -s " " </proc/self/uid_map; tr -s " " </proc/self/gid_map')" \
        "$(printf ' 0 100000 65536\n 0 200000 65536')"
}

case_userns_exec() {
    background --uidmap 0:100000:65536 --gidmap 0:200000:65536 $image box sleep 100
    is "$(ctr task exec --exec-id one box id -u)" 0
    has "$(ctr task exec --exec-id two box cat /proc/self/uid_map)" 100000
    is "$(stat -c %u "/proc/$(pid_of box)")" 100000
    remove box
}

case_seccomp() {
    is "$(run --rm --seccomp $image box sh -c 'grep ^Seccomp: /proc/self/status | tr -s "\t " " "')" 'Seccomp: 2'
    fails 1 run --rm --seccomp $image box unshare -U true
    has "$said" 'operation not permitted'
}

case_seccomp_profile() {
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}' >/tmp/profile
    fails 1 run --rm --seccomp --seccomp-profile /tmp/profile $image box mkdir /tmp/made
    has "$said" 'function not implemented'
}

case_capabilities() {
    is "$(run --rm --cap-drop CAP_CHOWN $image box sh -c 'chown 1000 /tmp 2>/dev/null; stat -c %u /tmp')" 0
    is "$(run --rm $image box sh -c 'chown 1000 /tmp; stat -c %u /tmp')" 1000
    has "$(run --rm --cap-add CAP_SYS_ADMIN $image box sh -c 'mount -t tmpfs none /data; mount')" 'none on /data'
}

case_privileged() {
    run --rm --privileged $image box true
}

case_user() {
    is "$(run --rm --user 1000 $image box id -u)" 1000
    is "$(run --rm --user user $image box id -un)" user
}

case_working_directory_is_made() {
    is "$(run --rm --cwd /new/place $image box pwd)" /new/place
}

case_environment() {
    is "$(run --rm --env ONE=1 --env TWO=2 $image box sh -c 'echo $ONE $TWO')" '1 2'
}

case_read_only() {
    fails 1 run --rm --read-only $image box touch /file
    has "$said" 'read-only file system'
}

case_bind_mount() {
    mkdir -p /tmp/bound
    run --rm --mount type=bind,src=/tmp/bound,dst=/data,options=rbind:rw $image box sh -c 'echo hello >/data/file'
    is "$(cat /tmp/bound/file)" hello
    fails 1 run --rm --mount type=bind,src=/tmp/bound,dst=/data,options=rbind:ro $image box touch /data/file
    has "$said" 'read-only file system'
    fails 1 run --rm --mount type=bind,src=/no/such/source,dst=/data,options=rbind:ro $image box true
    has "$said" 'no such file or directory'
}

case_tmpfs() {
    has "$(run --rm --mount type=tmpfs,dst=/data,options=size=1m:noexec $image box mount)" 'rw,noexec,relatime,size=1024k'
}

case_host_network() {
    is "$(run --rm --net-host $image box readlink /proc/self/ns/net)" "$(readlink /proc/self/ns/net)"
}

case_joined_namespace() {
    background $image one sleep 100
    pid=$(pid_of one)
    is "$(run --rm --with-ns "pid:/proc/$pid/ns/pid" --with-ns "network:/proc/$pid/ns/net" $image two \
        sh -c 'readlink /proc/self/ns/net; cat /proc/1/cmdline | tr "\0" " "')" \
        "$(readlink "/proc/$pid/ns/net"; printf 'sleep 100 ')"
    remove one
}

case_cgroup_path() {
    background --cgroup /some/where/box $image box sleep 100
    is "$(sed -n 's/^0:://p' "/proc/$(pid_of box)/cgroup")" /some/where/box
    remove box
    # The runtime's part is the last one.
    rmdir /sys/fs/cgroup/some/where /sys/fs/cgroup/some
}

case_device() {
    run --rm --device /dev/fuse $image box test -c /dev/fuse
    fails 1 run --rm $image box sh -c 'mknod /tmp/fuse c 10 229 && exec 3<>/tmp/fuse'
}

case_sandboxed_paths() {
    fails 1 run --rm $image box sh -c 'echo 1 >/proc/sys/kernel/sysrq'
    fails 1 run --rm $image box sh -c 'test -n "$(cat /proc/timer_list)"'
}

case_rootfs_directory() {
    is "$(run --rm --rootfs /tmp/rootfs box /bin/echo hello)" hello
}

case_config_file() {
    config '' >/tmp/config.json
    is "$(run --rm --config /tmp/config.json box)" hello
}

case_hooks() {
    hook() {
        printf '"%s":[{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; echo %s >>/tmp/hooks"]}]' "$1" "$1"
    }
    rm -f /tmp/hooks
    config ",\"hooks\":{$(hook prestart),$(hook createRuntime),$(hook poststart),$(hook poststop)}" >/tmp/config.json
    is "$(run --rm --config /tmp/config.json box)" hello
    is "$(cat /tmp/hooks)" "$(printf 'prestart\ncreateRuntime\npoststart\npoststop')"
}

case_failing_hook() {
    config ',"hooks":{"createRuntime":[{"path":"/bin/sh","args":["sh","-c","echo for a reason >&2; exit 3"]}]}' >/tmp/config.json
    fails 1 run --rm --config /tmp/config.json box
    has "$said" 'for a reason'
    has "$said" 'hook'
}

case_events() {
    ctr events >/tmp/events &
    events=$!
    # It says nothing when it has subscribed.
    eventually sh -c 'ctr image label localhost/box:latest some=label && test -s /tmp/events'
    run --rm $image box sh -c 'exit 4' || true
    for topic in create start exit delete; do
        eventually grep "/tasks/$topic" /tmp/events
    done
    kill "$events"
    has "$(grep /tasks/exit /tmp/events)" '"exit_status":4'
}

case_checkpoint() {
    background $image box sh -c 'i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; sleep 0.1; done'
    eventually test -s "/proc/$(pid_of box)/root/tmp/count"
    ctr container checkpoint --task --image --rw box localhost/saved:latest
    remove box
    ctr container restore --live box localhost/saved:latest
    is "$(status box)" RUNNING
    eventually ctr task exec --exec-id one box sh -c 'test $(cat /tmp/count) -gt 5'
    remove box
    ctr image rm localhost/saved:latest
}

case_task_checkpoint() {
    background $image box sleep 100
    mkdir -p /tmp/images /tmp/work
    ctr task checkpoint --image-path /tmp/images --work-path /tmp/work box || { tail -n 5 /tmp/work/dump.log; false; }
    test -s /tmp/images/inventory.img
    remove box
}

case_containerd_restarts() {
    background $image box sleep 100
    kill "$(cat /tmp/containerd.pid)"
    eventually sh -c '! kill -0 "$(cat /tmp/containerd.pid)"'
    serve
    is "$(status box)" RUNNING
    is "$(ctr task exec --exec-id one box echo hello)" hello
    remove box
}

case_shim_dies() {
    background $image box sleep 5432
    pid=$(pid_of box)
    kill -KILL "$(sed -n 's/^PPid:\t//p' "/proc/$pid/status")"
    eventually sh -c "! kill -0 $pid"
    eventually ctr container rm box
}

case_twenty_at_once() {
    for i in $(seq 20); do
        run --rm $image "box$i" sh -c 'exit 6' &
        eval "pid$i=$!"
    done
    for i in $(seq 20); do
        code=0
        eval "wait \$pid$i" || code=$?
        is "$code" 6
    done
}

pid_of() {
    ctr task ls | awk -v id="$1" '$1 == id { print $2 }'
}

# For `script`, which takes a line.
declare_run() {
    echo "ctr run --cpu-shares 0 --runtime io.containerd.runc.v2 --runc-binary $program"
}

# A config.json that prints hello; $1 is further members.
config() {
    cat <<EOF
{"ociVersion":"1.2.0","root":{"path":"/tmp/rootfs"},
"process":{"user":{"uid":0,"gid":0},"args":["echo","hello"],"env":["PATH=/bin"],"cwd":"/"},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs"}],
"linux":{"cgroupsPath":"/default/box","namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"},{"type":"network"}]}$1}
EOF
}
