# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the page of an evaluation adds to the reports' style sheet, and the script of its tables."""

STYLE = """
h2 { margin-bottom: 4px; } h3 { font-size: 14.5px; margin: 18px 0 8px; overflow-wrap: anywhere; }
h4 { font-size: 14px; margin: 16px 0 6px; } h4 + .lead { margin-top: -4px; }
section { margin: 38px 0; scroll-margin-top: 8px; } section.tiles { margin: 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.wide + .note { margin: -4px 0 14px; }
.lead { color: var(--soft); margin: 0 0 12px; max-width: 82ch; }
.lead b, .say b { color: var(--ink); font-weight: 600; }
.say { margin: 0 0 10px; max-width: 82ch; }
.verdict { font-size: 21px; font-weight: 600; margin: 4px 0 2px; letter-spacing: -.005em; }
.verdict.good { color: var(--third); } .verdict.bad { color: var(--loss); }
.warn { border: 1px solid var(--loss); border-radius: 10px; padding: 10px 14px; margin: 16px 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 18px 0 0; font-size: 13.5px; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
.wide { overflow-x: auto; margin: 0 0 12px; }
th[data-sort] { cursor: pointer; } th[aria-sort] { color: var(--ink); }
td, th { padding: 5px 10px; } .words { text-align: left; }
td.words { white-space: normal; min-width: 15em; }
td:first-child { overflow-wrap: break-word; min-width: 8.5em; max-width: 24em; }
td small { white-space: nowrap; color: var(--soft); }
table.left td, table.left th { text-align: left; } table.left td { white-space: normal;
  overflow-wrap: anywhere; }
.meter { width: auto; min-width: 120px; } .meter div { position: relative; overflow: visible; }
.fill { border-radius: 5px; } .fill.second { background: var(--second); }
.fill.third { background: var(--third); }
.meter u { position: absolute; top: -2px; height: 14px; text-decoration: none;
  border: solid var(--ink); border-width: 0 1.5px; }
.meter u::before { content: ""; position: absolute; left: 0; right: 0; top: 6px; height: 1.5px;
  background: var(--ink); }
.change { min-width: 190px; width: 42%; }
th.change { text-align: left; } .change div { position: relative; height: 14px; 
  background: linear-gradient(var(--soft), var(--soft)) 50% 0 / 1px 100% no-repeat; }
.change u { position: absolute; top: 6px; height: 2px; border-radius: 1px; }
.change s { position: absolute; top: 3px; width: 8px; height: 8px; border-radius: 50%;
  margin-left: -4px; }
.same u, .same s { background: var(--soft); } .better u, .better s { background: var(--third); }
.worse u, .worse s { background: var(--loss); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
.key.first { background: var(--first); } .key.second { background: var(--second); }
.key.third { background: var(--third); }
.keys2 { margin: 0 0 8px; font-size: 13.5px; } .keys2 span:not(.key) { margin-right: 18px; }
.legend.small { margin: 8px 0 0; font-size: 13px; gap: 3px 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px 10px 12px; margin-bottom: 12px; }
.card > summary, details > summary { cursor: pointer; overflow-wrap: anywhere; }
details { margin-bottom: 10px; } details > summary { margin-bottom: 6px; }
.plot { display: grid; grid-template-columns: 52px minmax(0, 1fr); margin-bottom: 5px; }
.plot i { position: absolute; font-style: normal; font-size: 11.5px; color: var(--soft);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.ptitle { grid-column: 2; font-size: 12.5px; color: var(--soft); margin: 3px 0 2px; }
.ptitle b { color: var(--ink); font-weight: 500; }
.ys { position: relative; grid-column: 1; } .ys i { right: 7px; transform: translateY(-50%); }
.area { position: relative; border-left: 1px solid var(--line);
  border-bottom: 1px solid var(--line); }
.area svg, .area img { position: absolute; inset: 0; width: 100%; height: 100%; }
.area img { image-rendering: pixelated; }
.area .note { position: absolute; top: 4px; margin: 0; font-size: 12px; font-weight: 500;
  background: color-mix(in srgb, var(--card) 80%, transparent); padding: 0 3px; }
.xs { position: relative; grid-column: 2; height: 17px; }
.xs i { transform: translateX(-50%); top: 2px; }
.xtitle { grid-column: 2; font-size: 12px; color: var(--soft); text-align: center; }
.plot path { vector-effect: non-scaling-stroke; }
.plot .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.plot .dot { fill: none; stroke-width: 4.5; stroke-linecap: round; }
.plot .first { stroke: var(--first); } .plot .second { stroke: var(--second); }
.plot .third { stroke: var(--third); } .plot .band { stroke: none; opacity: .25; }
.plot .band.first { fill: var(--first); } .plot .band.second { fill: var(--second); }
.plot .band.third { fill: var(--third); } .plot .bar { stroke: none; }
.square { max-width: 420px; } .square svg { overflow: visible; }
.tile b { white-space: normal; } .tile span, .tile i { overflow-wrap: anywhere; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr));
  gap: 14px; align-items: start; }
.frames { display: grid; gap: 6px; margin-bottom: 4px;
  grid-template-columns: repeat(auto-fit, minmax(min(165px, 46%), 1fr)); }
.frames figure { background: none; border: 0; padding: 0; border-radius: 0; }
.frames img { width: 100%; display: block; border-radius: 5px; background: #000; }
.frames figcaption { font-size: 12px; margin: 2px 0 0; overflow-wrap: anywhere; }
.shot { margin: 0 0 14px; break-inside: avoid; } .shot p { margin: 0 0 4px; font-size: 13px;
  color: var(--soft); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.shot p b { color: var(--ink); font-weight: 600; }
.heat { width: auto; } .heat td, .heat th { padding: 0; border: 1px solid var(--card); }
.heat td { width: 46px; height: 30px; min-width: 0; text-align: center;
  font-size: 12.5px; background:
  color-mix(in srgb, var(--first) calc(var(--v) * 1%), var(--line)); }
.heat td.deep { color: #fff; } .heat th.row { text-align: right; padding: 0 8px; border: 0; }
.heat th.col { border: 0; text-align: center; height: 1px; vertical-align: bottom; padding: 4px 0; }
.heat th.col span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.heat td:first-child, .heat th:first-child { text-align: right; }
.map { display: grid; grid-template-columns: max-content max-content; width: max-content; }
.map .rows div, .map .cols div { font-size: 10px; line-height: 13px; height: 13px;
  color: var(--soft); white-space: nowrap; }
.map .rows { text-align: right; padding-right: 6px; } .map .cols { grid-column: 2; display: flex; }
.map .cols div { width: 13px; height: auto; writing-mode: vertical-rl;
  transform: rotate(180deg); }
.map img { image-rendering: pixelated; display: block; background: var(--line); }
.stack { display: flex; height: 22px; border-radius: 5px; overflow: hidden;
  background: var(--line); }
.stack b { display: block; height: 100%; } .stacks { display: grid; gap: 5px 12px; margin: 0 0 10px;
  grid-template-columns: max-content minmax(0, 1fr) max-content; align-items: center;
  font-size: 13px; font-variant-numeric: tabular-nums; }
.s0 { background: #7a869a; } .s1 { background: #2a9d76; } .s2 { background: #8f6fd0; }
.s3 { background: #d9822b; } .s4 { background: #2f6fde; }
video { max-height: 70vh; }
@media (max-width: 560px) { main { padding: 18px 12px 30px; } td, th { padding: 5px 7px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .tile { padding: 9px 11px; }
  .tile b { font-size: 21px; } .plot { grid-template-columns: 42px minmax(0, 1fr); }
  .change { min-width: 105px; } .meter { min-width: 70px; } .verdict { font-size: 18px; } }
@media print { :root { color-scheme: light; --ink: #1c1f23; --soft: #565c66; --paper: #fff;
  --card: #fff; --line: #d5d9de; --first: #2f6fde; --second: #d9822b; --third: #2a9d76;
  --loss: #b3372f; } body { font-size: 12px; } main { max-width: none; padding: 0; }
  nav, video { display: none; } h2, h3, h4, .lead { break-after: avoid; }
  .frames { grid-template-columns: repeat(auto-fit, minmax(95px, 1fr)); }
  .card, tr, figure { break-inside: avoid; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

# Reading needs none of it: a click on the head of a table sorts its rows.
SCRIPT = """
for (const table of document.querySelectorAll('table.sort')) {
  const value = (row, at) => { const cell = row.cells[at];
    const text = cell.dataset.v ?? cell.textContent.trim().replace('\\u2212', '-')
      .replace(/(\\d)\\s(?=\\d{3})/g, '$1');
    const number = parseFloat(text); return Number.isNaN(number) ? text : number; };
  [...table.tHead.rows[0].cells].forEach((head, at) => { head.dataset.sort = '';
    head.onclick = () => { const down = head.getAttribute('aria-sort') !== 'descending';
      for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = value(a, at), y = value(b, at);
        const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0)
          : (typeof x === 'number' ? 1 : -1); return down ? -order : order; });
      table.tBodies[0].append(...rows); }; });
}
"""
