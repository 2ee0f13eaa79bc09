#!/bin/sh
# Makes the secrets of compose.yaml once; those that are there stay.
set -eu
umask 077
cd "$(dirname "$0")"
random() { head -c 36 /dev/urandom | base64 | tr -d '\n' | tr '/+' '-_'; }
mkdir -p secrets
for name in secret_key operator_token; do
    # Readable in the containers, whose user is another; the directory keeps others out.
    if [ ! -f "secrets/$name" ]; then random > "secrets/$name"; chmod 0644 "secrets/$name"; fi
done
if [ ! -f secrets.env ]; then
    database=$(random) neuron=$(random)
    cat > secrets.env << END
POSTGRES_PASSWORD=$database
CORTEX_DATABASE__URL=postgresql://cortex:$database@database/cortex
NEURON_TOKEN=$neuron
CORTEX_NEURONS=[{"name": "neuron", "endpoint": "http://neuron:13131", "token": "$neuron"}]
END
fi
