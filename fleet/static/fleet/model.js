"use strict";
// The model's page: its log is asked for when it is opened.

const details = $("#server-log");
details?.addEventListener("toggle", async () => {
  if (!details.open) return;
  const answer = await fetch(details.dataset.url).catch(() => null);
  const told = await answer?.json().catch(() => null);
  const lines = told?.lines ?? [told?.error?.message ?? "The control plane does not answer."];
  details.querySelector("pre").textContent = lines.join("\n") || "Nothing yet.";
});
