# Words that the cases use. A case is a function; it fails when a command in it fails.

# The image: one static busybox.
make_rootfs() {
    mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/proc" "$1/dev" "$1/sys" "$1/root" "$1/data"
    chmod 1777 "$1/tmp"
    cp /bin/busybox "$1/bin/"
    chroot "$1" /bin/busybox --install -s /bin
    printf 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$1/etc/group"
    : >"$1/etc/not-executable"
    printf '#!/no/such/interpreter\n' >"$1/bin/no-interpreter"
    chmod 755 "$1/bin/no-interpreter"
}

# $1 is $2.
is() {
    [ "$1" = "$2" ] && return
    printf 'got:      %s\nexpected: %s\n' "$1" "$2"
    return 1
}

# The text $1 has $2 in it, whatever the case of the letters.
has() {
    printf '%s\n' "$1" | grep -qiF -e "$2" && return
    printf 'got: %s\nthat has no: %s\n' "$1" "$2"
    return 1
}

# The command fails with the exit code $1; what it prints is in $said.
fails() {
    wanted=$1
    shift
    code=0
    said=$("$@" 2>&1) || code=$?
    [ "$code" = "$wanted" ] && return
    printf 'exit code %s, expected %s, of: %s\n%s\n' "$code" "$wanted" "$*" "$said"
    return 1
}

# Ends a case that has shown that orlop is meant to behave otherwise.
differs() {
    echo "$1"
    exit 76
}

# The command succeeds within some seconds.
eventually() {
    for _ in $(seq 50); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "never came true: $*"
    "$@"
}

# The output of a command is $1 within some seconds.
becomes() {
    wanted=$1
    shift
    for _ in $(seq 50); do
        if [ "$("$@" 2>/dev/null)" = "$wanted" ]; then return; fi
        sleep 0.2
    done
    echo "never became $wanted: $*"
    "$@"
    return 1
}

# A command on a terminal of its own.
on_terminal() {
    script -qec "$*" /dev/null </dev/null | tr -d '\r'
}

# What /etc/containers/containers.conf needs for orlop (docs/clients.md), and no limits that the machine cannot enforce.
containers_conf() {
    mkdir -p /etc/containers
    cat >/etc/containers/containers.conf <<'EOF'
[containers]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["crun", "runc", "orlop"]
runtime_supports_nocgroup = ["crun", "orlop"]
[engine.runtimes]
orlop = ["/usr/local/bin/orlop"]
EOF
}

# Of podman's command line, which a client gives as `p`. Others have their own.
run() {
    p run --rm --network none "$@"
}

background() {
    p run -d --name box --network none "$@" >/dev/null
}

status() {
    p inspect -f '{{.State.Status}}' "$1"
}
