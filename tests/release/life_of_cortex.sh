#!/bin/sh
# The life of cortex's .deb in a root of its own: this system's, with everything that is written kept apart.
# In namespaces of its own (mounts, processes, network), as root: in_a_root.sh FOLDER DEB VALKEY_SERVER
set -eu
folder=$1 deb=$2 valkey=$3
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
root=$folder/root
cp "$deb" "$root/cortex.deb"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
ip link set lo up
cat > "$root/life.sh" <<'LIFE'
set -eu
as_cortex='setpriv --reuid=cortex --regid=cortex --init-groups env -i PATH=/usr/bin:/bin HOME=/var/lib/cortex'
holds() { echo "$1"; shift; "$@" || { echo "not so: $*"; exit 1; }; }

dpkg -i /cortex.deb
holds "data is its user's alone" [ "$(stat -c '%a %U' /var/lib/cortex)" = '700 cortex' ]
holds "settings are root's, and readable to it" [ "$(stat -c '%a %U %G' /etc/cortex/cortex.toml)" = '640 root cortex' ]
holds "the unit is there" [ -f /usr/lib/systemd/system/cortex.service ]
sed -i 's|redis://127.0.0.1:6379/0|unix:///var/lib/cortex/redis.sock|' /etc/cortex/cortex.toml

$as_cortex "$VALKEY" --port 0 --unixsocket /var/lib/cortex/redis.sock --save '' > /dev/null &
redis=$!
start=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/cortex.service)
$as_cortex $start > /served.log 2>&1 &
served=$!
for _ in $(seq 600); do
    curl --silent --fail http://127.0.0.1:31313/healthz > /dev/null && break
    sleep 0.2
done
holds "the unit's command serves" curl --silent --fail http://127.0.0.1:31313/healthz
holds "the doctor finds nothing fatal" $as_cortex cortex doctor --config /etc/cortex/cortex.toml
kill "$served"; wait "$served" || true
kill "$redis"; wait "$redis" || true
secret=$(cat /var/lib/cortex/secret_key)

dpkg -i /cortex.deb
holds "an upgrade keeps the secrets" [ "$(cat /var/lib/cortex/secret_key)" = "$secret" ]
holds "and the settings" grep -q redis.sock /etc/cortex/cortex.toml
dpkg -r cortex
holds "a removal takes the programs" [ ! -e /opt/cortex -a ! -e /usr/bin/cortex ]
holds "and leaves data and settings" [ -f /var/lib/cortex/cortex.sqlite3 -a -f /etc/cortex/cortex.toml ]
dpkg -P cortex
holds "a purge takes both" [ ! -e /var/lib/cortex -a ! -e /etc/cortex ]
holds "and the user" sh -c '! getent passwd cortex'
echo whole
LIFE
VALKEY=$valkey exec chroot "$root" sh /life.sh 2>&1
