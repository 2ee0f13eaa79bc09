# The life of neuron's .deb: see in_a_root.sh. Where it has torch, the model that ships with it answers.
as_neuron='setpriv --reuid=neuron --regid=neuron --init-groups env -i PATH=/usr/bin:/bin HOME=/var/lib/neuron'
has_torch() { ls -d /opt/neuron/lib/*/site-packages/torch > /dev/null 2>&1; }
chats() {
    curl --silent --fail --max-time 60 http://127.0.0.1:13131/v1/chat/completions --header 'content-type: application/json' \
        --data '{"model": "helexa-tiny", "messages": [{"role": "user", "content": "Which port does neuron listen on?"}]}' | grep -q 13131
}
answers_chats() { for _ in $(seq 300); do chats && return; sleep 1; done; return 1; }

dpkg -i /package.deb
holds "data is its user's alone" [ "$(stat -c '%a %U' /var/lib/neuron)" = '700 neuron' ]
holds "settings are root's, and readable to it" [ "$(stat -c '%a %U %G' /etc/neuron/neuron.toml)" = '640 root neuron' ]
start=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/neuron.service)
cd /var/lib/neuron
if has_torch; then
    $as_neuron HF_HOME=/var/lib/neuron/huggingface $start > /served.log 2>&1 &
    served=$!
    holds "the unit's command serves" answers http://127.0.0.1:13131/version
    holds "the model that ships with it answers" answers_chats
    kill "$served"; wait "$served" || true
else
    $as_neuron $start > /served.log 2>&1 && exit 1
    holds "without torch the unit's command says what to install" grep -q 'cortex\[neuron\]' /served.log
fi
touch /var/lib/neuron/kept
echo '# mine' >> /etc/neuron/neuron.toml

dpkg -i /package.deb
holds "an upgrade keeps the settings" grep -q '# mine' /etc/neuron/neuron.toml
dpkg -r cortex-neuron
holds "a removal takes the programs" [ ! -e /opt/neuron -a ! -e /usr/bin/neuron ]
holds "and leaves data and settings" [ -f /var/lib/neuron/kept -a -f /etc/neuron/neuron.toml ]
dpkg -P cortex-neuron
holds "a purge takes both" [ ! -e /var/lib/neuron -a ! -e /etc/neuron ]
holds "and the user" sh -c '! getent passwd neuron'
echo whole
