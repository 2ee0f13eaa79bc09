#!/bin/sh
# A removal leaves settings and data; dpkg's purge, which rpm does not know, deletes them.
set -e
program=@PROGRAM@
case "$1" in
purge)
    rm -rf "/var/lib/$program" "/etc/$program"
    userdel "$program" 2> /dev/null || true
    ;;
remove | 0)
    rm -rf "/opt/$program"
    echo "Settings and data are left in /etc/$program and /var/lib/$program."
    ;;
esac
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
