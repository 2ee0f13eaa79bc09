# The life of cortex's .deb, beside $VALKEY: see in_a_root.sh.
as_cortex='setpriv --reuid=cortex --regid=cortex --init-groups env -i PATH=/usr/bin:/bin HOME=/var/lib/cortex'

dpkg -i /package.deb
holds "data is its user's alone" [ "$(stat -c '%a %U' /var/lib/cortex)" = '700 cortex' ]
holds "settings are root's, and readable to it" [ "$(stat -c '%a %U %G' /etc/cortex/cortex.toml)" = '640 root cortex' ]
holds "the unit is there" [ -f /usr/lib/systemd/system/cortex.service ]
sed -i 's|redis://127.0.0.1:6379/0|unix:///var/lib/cortex/redis.sock|' /etc/cortex/cortex.toml

$as_cortex "$VALKEY" --port 0 --unixsocket /var/lib/cortex/redis.sock --save '' > /dev/null &
redis=$!
start=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/cortex.service)
$as_cortex $start > /served.log 2>&1 &
served=$!
holds "the unit's command serves" answers http://127.0.0.1:31313/healthz
holds "the doctor finds nothing fatal" $as_cortex cortex doctor --config /etc/cortex/cortex.toml
kill "$served"; wait "$served" || true
kill "$redis"; wait "$redis" || true
secret=$(cat /var/lib/cortex/secret_key)

dpkg -i /package.deb
holds "an upgrade keeps the secrets" [ "$(cat /var/lib/cortex/secret_key)" = "$secret" ]
holds "and the settings" grep -q redis.sock /etc/cortex/cortex.toml
dpkg -r cortex
holds "a removal takes the programs" [ ! -e /opt/cortex -a ! -e /usr/bin/cortex ]
holds "and leaves data and settings" [ -f /var/lib/cortex/cortex.sqlite3 -a -f /etc/cortex/cortex.toml ]
dpkg -P cortex
holds "a purge takes both" [ ! -e /var/lib/cortex -a ! -e /etc/cortex ]
holds "and the user" sh -c '! getent passwd cortex'
echo whole
