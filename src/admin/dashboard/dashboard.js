// Asks for the figures every two seconds, and shows them. Whatever has a name is put in as text: names come from the file.
"use strict";

const EVERY = 2000; // milliseconds
const FROM_THE_STORE = ["hit", "stale"];

let before = null;

const place = (id) => document.getElementById(id);

function cell(row, text, kind) {
  const cell = row.insertCell();
  cell.textContent = text;
  if (kind) {
    cell.className = kind;
  }
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);

function showRoutes(routes, seconds) {
  const rows = place("routes");
  rows.replaceChildren();
  for (const [name, verdicts] of Object.entries(routes)) {
    const all = sum(verdicts);
    const stored = FROM_THE_STORE.reduce((stored, verdict) => stored + (verdicts[verdict] ?? 0), 0);
    const earlier = before && sum(before.routes[name] ?? {});
    const row = rows.insertRow();
    cell(row, name);
    cell(row, all.toLocaleString("en"), "number");
    cell(row, earlier === null ? "–" : (Math.max(all - earlier, 0) / seconds).toFixed(1), "number");
    cell(row, all ? `${((stored / all) * 100).toFixed(1)} %` : "–", "number");
    cell(row, Object.entries(verdicts).map(([verdict, count]) => `${verdict} ${count.toLocaleString("en")}`).join(", "));
  }
}

function showServers(upstreams) {
  const rows = place("servers");
  rows.replaceChildren();
  for (const [name, upstream] of Object.entries(upstreams)) {
    for (const server of upstream.servers) {
      const row = rows.insertRow();
      cell(row, name);
      cell(row, server.server);
      cell(row, server.state, server.state);
      cell(row, server.requests, "number");
      cell(row, upstream.waiting, "number");
    }
  }
}

function redis(redis) {
  if (!redis) {
    return "";
  }
  const among = `${redis.instances} ${redis.instances === 1 ? "instance shares" : "instances share"} the Redis`;
  const untold = redis.purges.untold ? `, ${redis.purges.untold} still to be told` : "";
  if (redis.trouble !== null) {
    return `The Redis is left alone: ${redis.trouble}${untold}`;
  }
  const { varies, ...recalls } = redis.recalls;
  const all = sum(recalls);
  const found = all ? `${(((recalls.hit ?? 0) / all) * 100).toFixed(1)} % of ${all.toLocaleString("en")} pages that were not in memory were there` : "no page has been looked for";
  const touch = redis.purges.in_touch ? `in touch, ${redis.purges.behind_ms} ms behind` : "not in touch";
  return `${among}: ${found}, ${redis.recall_ms.toFixed(2)} ms each; purges: ${touch}${untold}`;
}

async function renew() {
  try {
    const response = await fetch("/stats", { cache: "no-store" });
    if (!response.ok) {
      throw new Error(`the answer is ${response.status}`);
    }
    const stats = await response.json();
    const now = performance.now();
    place("instance").textContent = stats.instance;
    place("fill").value = stats.store.capacity ? stats.store.bytes / stats.store.capacity : 0;
    place("store").textContent =
      `${stats.store.entries.toLocaleString("en")} entries, ${bytes(stats.store.bytes)} of ${bytes(stats.store.capacity)}`;
    place("redis").textContent = redis(stats.redis);
    showRoutes(stats.routes, before ? (now - before.at) / 1000 : 1);
    showServers(stats.upstreams);
    before = { routes: stats.routes, at: now };
    place("state").textContent = `as of ${new Date().toLocaleTimeString("en-GB")}`;
    place("state").classList.remove("lost");
  } catch (error) {
    place("state").textContent = `no figures: ${error.message}`;
    place("state").classList.add("lost");
  }
  setTimeout(renew, EVERY);
}

renew();
