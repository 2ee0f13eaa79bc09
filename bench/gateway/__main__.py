"""The gateway beside its peers, one core, one mock node, one load: python -m bench.gateway

Ratios are medians over rounds in which all servers take turns; each is of two turns within a round.

    rps_over_nginx        JSON requests a second at 32 connections, each asking again at once; the node
                          answers instantly; many short turns
    rps_over_vllm_router, rps_over_litellm   the same
    cpu_over_nginx        CPU seconds per million chunks, 128 streams of 50 chunks a second; ours with its
                          Redis
    cpu_over_vllm_router, cpu_over_litellm   the same
    cpu_over_h1           the same, ours: clients that speak HTTP/2 over those that speak HTTP/1.1
    delay_p99_over_nginx  p99 of a chunk's way from the node's write to the client's read, same load
    stalls                ours, at 128, HTTP/2 too, at 512 such streams, and at 2,048 of 5 chunks a second
                          each: gaps of more than a second
    broken                streams that lack a byte, a chunk or their end, or hold a byte that was not sent
    ttfb_added_p99_over_nginx_added  p99 of the time to a stream's first byte, 32 connections with 20 requests
                          a second each, minus the same without a gateway; ours over nginx's
    rps_translated_over_plain  ours: Anthropic's requests over OpenAI's, in the turn before
    rps_10k_keys_over_1   ours: 10,000 keys in turn, each of which has asked before, over one in the turn
                          before
    rps_200x50_over_1x1   ours: 50 models in turn, each on 16 of 200 nodes, asked for before, over one on
                          one node in the turn before; connections to nodes stay open between the turns
    rps_2_over_1          ours: two workers on one socket with twice the connections, where there are cores
    evenness_2            of two workers on one socket with 64 open streams: the most of one, over the mean
    kib_per_stream        private memory of ours for each of 512 open, silent streams
    p99_db_down_over_up   p99 of the time to the first byte after PostgreSQL stops under this load, over
                          before; several turns of each, the first without it begins as it stops
    start_s               until every server answered
    figures               medians of each server: `figures[load][server]`
    versions              of the peers
    cores                 which of the machine's cores each part had
    runs                  every run: `runs[load][server]`

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

from bench import command
from bench.gateway.measure import measure
from bench.gateway.peers import PEERS

if __name__ == "__main__":
    command.run("gateway", __doc__, measure, peers=PEERS)
