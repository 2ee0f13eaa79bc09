#!/bin/sh
# Takes the secrets that all gateways share, if some are mounted, into a state directory of the container's own.
set -eu
install -d -m 0700 "$CORTEX_STATE_DIR"
for name in secret_key operator_token; do
    if [ -f "/run/secrets/$name" ]; then install -m 0600 "/run/secrets/$name" "$CORTEX_STATE_DIR/$name"; fi
done
exec cortex serve "$@"
