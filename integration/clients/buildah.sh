# buildah with OCI isolation: it calls the runtime itself, without conmon. Root cannot raise limits in every machine, and
# buildah asks for 1,048,576 files unless told otherwise.

image=localhost/box

prepare() {
    make_rootfs /tmp/rootfs
    tar -C /tmp/rootfs -cf /tmp/rootfs.tar .
    containers_conf
    podman import -q /tmp/rootfs.tar $image
}

clean() {
    buildah rm -a
}

b() {
    BUILDAH_ISOLATION=oci BUILDAH_RUNTIME=$program buildah "$@"
}

limits='--ulimit nofile=1024:1024 --ulimit nproc=1024:1024'

from() {
    # shellcheck disable=SC2086
    b from --network none $limits --name box "$@" $image >/dev/null
}

case_run() {
    from
    is "$(b run box echo hello)" hello
    fails 7 b run box sh -c 'exit 7'
    b rm box
}

case_stdin_and_tty() {
    from
    is "$(echo hello | b run box cat)" hello
    has "$(on_terminal "BUILDAH_ISOLATION=oci BUILDAH_RUNTIME=$program buildah run -t box tty")" /dev/
    b rm box
}

case_missing_program() {
    from
    fails 1 b run box no-such-program || test "$code" -gt 1
    has "$said" 'executable file not found in $PATH'
    b rm box
}

case_user_and_directory() {
    from
    is "$(b run --user 1000:1000 --workingdir /tmp box sh -c 'id -u; pwd')" "$(printf '1000\n/tmp')"
    b rm box
}

case_volume() {
    from
    mkdir -p /tmp/bound
    b run -v /tmp/bound:/data box sh -c 'echo hello >/data/file'
    is "$(cat /tmp/bound/file)" hello
    fails 1 b run -v /tmp/bound:/data:ro box touch /data/file
    b rm box
}

case_capabilities() {
    from
    has "$(b run --cap-drop CAP_CHOWN box sh -c 'chown 1000 /tmp' 2>&1 || true)" 'not permitted'
    b run --cap-add CAP_SYS_ADMIN box mount -t tmpfs none /data
    b rm box
}

case_userns() {
    from --userns-uid-map 0:100000:5000 --userns-gid-map 0:100000:5000
    is "$(b run box sh -c 'tr -s " " </proc/self/uid_map')" ' 0 100000 5000'
    b rm box
}

case_commit() {
    from
    b run box sh -c 'echo hello >/data/file'
    b commit -q box localhost/changed
    is "$(podman --runtime "$program" run --rm --network none localhost/changed cat /data/file)" hello
    b rm box
    b rmi localhost/changed
}

case_build() {
    mkdir -p /tmp/context
    printf 'FROM %s AS one\nRUN echo hello >/made\nFROM %s\nCOPY --from=one /made /copied\nRUN --mount=type=tmpfs,target=/data --mount=type=bind,from=one,target=/mnt cat /mnt/made /copied\nUSER 1000\nRUN id -u\n' \
        $image $image >/tmp/context/Containerfile
    # shellcheck disable=SC2086
    said=$(b build --network none $limits --no-cache -t localhost/built /tmp/context)
    has "$said" hello
    has "$said" 1000
    b rmi localhost/built
}

case_build_with_a_secret() {
    mkdir -p /tmp/context
    printf hello >/tmp/word
    printf 'FROM %s\nRUN --mount=type=secret,id=word cat /run/secrets/word\n' $image >/tmp/context/Containerfile
    # shellcheck disable=SC2086
    has "$(b build --network none $limits --no-cache --secret id=word,src=/tmp/word -t localhost/built /tmp/context)" hello
    b rmi localhost/built
}

case_build_that_fails() {
    mkdir -p /tmp/context
    printf 'FROM %s\nRUN exit 7\n' $image >/tmp/context/Containerfile
    # shellcheck disable=SC2086
    fails 7 b build --network none $limits --no-cache -t localhost/built /tmp/context
}

case_interrupted() {
    from
    BUILDAH_ISOLATION=oci BUILDAH_RUNTIME=$program buildah run box sleep 4321 &
    eventually pgrep -f '^/bin/sleep 432[1]'
    kill -TERM $!
    eventually sh -c '! pgrep -f "^/bin/sleep 432[1]"'
    wait $! || true
    b rm box
}
