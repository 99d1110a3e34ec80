# shellcheck shell=bash
# A fresh Debian 12 in a folder, for the scripts beside this one. As root, with debootstrap.

say() {
    printf '  %s\n' "$*"
}

mirror() {
    local host
    # shellcheck disable=SC2016 # for apt-get to expand
    host=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 2>/dev/null |
        awk '$2 ~ /^bookworm$|^stable$/ && $3 == "main" { print $1; exit }')
    echo "${MIRROR:-$host}"
}

# Nothing but the base system, with so much of /dev/shm.
fresh_debian() { # fresh_debian FOLDER SIZE
    local root=$1
    debootstrap --variant=minbase bookworm "$root" "$(mirror)" >"$root.log" 2>&1 || {
        tail -n 5 "$root.log"
        return 1
    }
    [ -z "$(ls -A /etc/apt/sources.list.d)" ] || : >"$root/etc/apt/sources.list"
    cp -R /etc/apt/sources.list.d /etc/apt/apt.conf.d "$root/etc/apt/" 2>/dev/null || true
    cp /etc/resolv.conf "$root/etc/" 2>/dev/null || true
    mount -t proc proc "$root/proc"
    mkdir -p "$root/dev/shm"
    mount -t tmpfs -o "size=$2" tmpfs "$root/dev/shm"
    mkdir -p "$root/dev/pts"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -sf pts/ptmx "$root/dev/ptmx"
}

leave_debian() { # leave_debian FOLDER
    umount "$1/proc" "$1/dev/shm" "$1/dev/pts" 2>/dev/null || true
}
