#!/bin/sh
# After an installation or an upgrade.
set -e
program=@PROGRAM@

if ! getent passwd "$program" > /dev/null; then
    useradd --system --user-group --home-dir "/var/lib/$program" --no-create-home --shell /usr/sbin/nologin "$program"
fi
install -d -m 0700 -o "$program" -g "$program" "/var/lib/$program"
chgrp "$program" "/etc/$program" "/etc/$program"/*.toml
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart "$program.service"
fi
if [ "$1" = 1 ] || { [ "$1" = configure ] && [ -z "$2" ]; }; then
    echo "Edit /etc/$program/$program.toml, then: systemctl enable --now $program"
fi
