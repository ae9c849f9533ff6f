// Shows the run under way, and the page anew when it ended. Without it everything works, and nothing moves.
"use strict";
(() => {
  const bar = document.getElementById("live");
  if (!bar || !window.EventSource) return;
  const at = (id) => document.getElementById(id);
  let running = null;
  const show = (status) => {
    const now = status.queue.find((queued) => queued.running) || null;
    const ended = running && (!now || now.run !== running.run);
    if (now && (!running || running.run !== now.run)) at("live-said").textContent = `A run of ${now.connection} is under way.`;
    if (ended) at("live-said").textContent = `The run of ${running.connection} ended.`;
    // The page was made while a run waited or was under way, and that one may have ended before this first heard of it.
    const shown = [...document.querySelectorAll("[data-waits]")].map((element) => element.dataset.waits);
    const gone = shown.some((run) => !status.queue.some((queued) => queued.run === run));
    // Whoever types is not interrupted.
    const typing = document.activeElement && ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement.tagName);
    if ((ended || gone) && !typing) return window.location.reload();
    running = now;
    bar.hidden = !now;
    if (!now) return;
    at("live-what").textContent = now.connection;
    at("live-file").textContent = status.live.file;
    at("live-progress").value = status.live.of ? Math.round((1000 * status.live.done) / status.live.of) : 0;
    at("live-rows").textContent = `${status.live.rows.toLocaleString("en")} rows`;
  };
  const events = new EventSource("/api/v1/events");
  events.addEventListener("status", (event) => show(JSON.parse(event.data)));
})();
