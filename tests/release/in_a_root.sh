#!/bin/sh
# The life of a .deb in a root of its own: this system's, with everything that is written kept apart.
# In namespaces of its own (mounts, processes, network), as root: in_a_root.sh FOLDER DEB LIFE
# There the script LIFE, with `holds` before it, finds the package as /package.deb.
set -eu
folder=$1 deb=$2 life=$3
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
root=$folder/root
cp "$deb" "$root/package.deb"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
ip link set lo up
cat - "$life" > "$root/life.sh" <<'COMMON'
set -eu
holds() { echo "$1"; shift; "$@" || { echo "not so: $*"; cat /served.log; exit 1; }; }
answers() { for _ in $(seq 600); do curl --silent --fail "$1" > /dev/null && return; sleep 0.2; done; return 1; }
COMMON
exec chroot "$root" sh /life.sh 2>&1
