#!/bin/sh
# boot.sh PLACE NAME BASE PATH...: what `unshare` runs as PID 1 of a host of the tests: makes its root and becomes its init.
#
# The root is BASE (/, or the tree of another system), read-only, with an overlay on each directory that a system writes
# to: hosts may have the same base, and each has its own /etc, /root and /var. (One overlay for all will not do: of a file
# that is mapped through two, the box's on the host's, the kernel names a mount that nobody can see, and CRIU refuses.)
# PATHs are visible at the same place, wherever the file system is that they lie on. Says "up" on standard output.
set -eu
place=$1 name=$2 base=${3%/}
shift 3
root=$place/root
[ -z "$base" ] || for path in "$@"; do
    mkdir -p "$base$path" # in the tree for good: to mount on
done
mount --bind "$base/" "$root"
mount -o remount,bind,ro "$root"

overlay() { # overlay DIRECTORY
    layers=$place/layers/$(echo "$1" | tr / -)
    mkdir -p "$layers/upper" "$layers/work"
    mount -t overlay host -o "lowerdir=$base$1,upperdir=$layers/upper,workdir=$layers/work" "$root$1"
}
for directory in /etc /home /media /mnt /root /srv /var; do
    [ -L "$base$directory" ] || [ ! -d "$base$directory" ] || overlay "$directory"
done
overlay /usr/local

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for path in "$@"; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
done
for pair in state:/var/lib/criu-agent work:/srv/work ssh:/root/.ssh repository:/srv/repository; do
    mkdir -p "$root${pair#*:}"
    mount --bind "$place/${pair%%:*}" "$root${pair#*:}"
done

mount -t proc proc "$root/proc"
# Every boot has an id; criu-agent must not take this host for the other one. In a user namespace proc can be mounted only
# where another one is wholly visible.
mkdir "$root/run/proc"
mount -t proc proc "$root/run/proc"
mount --bind "$place/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net" "$root/run/sshd"
for device in null zero full random urandom tty net/tun; do
    [ -e "/dev/$device" ] || continue
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

hostname "$name"
ip link set lo up
cp "$INIT" "$root/run/init"
cd "$root"
pivot_root . .
umount -l .
cd /
echo up
exec /run/init -- sleep infinity
