# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The style sheet of the report's page: neutral, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #646b75; --paper: #f6f7f8;
  --card: #fff; --line: #dfe3e8; --first: #2f6fde; --second: #d9822b; --third: #2a9d76;
  --loss: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #99a1ac; --paper: #15171a;
  --card: #1e2125; --line: #33383f; --first: #6ea0ff; --second: #f0a552; --third: #5cc9a1;
  --loss: #ff8b80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.45;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 40px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
header p { margin: 0 0 20px; color: var(--soft); overflow-wrap: anywhere; }
header p b { color: var(--ink); font-weight: 600; }
section { margin: 26px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(175px, 1fr)); gap: 12px;
  margin: 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; }
.tile span, .tile i { display: block; color: var(--soft); font-size: 12.5px; font-style: normal; }
.tile b { display: block; font-size: 25px; font-weight: 600; margin: 1px 0 3px;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile small { font-size: 15px; font-weight: 400; color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; list-style: none; padding: 0;
  margin: 22px 0 -10px; }
.swatch { display: inline-block; width: 13px; height: 13px; border-radius: 3px;
  border: 1px solid color-mix(in srgb, var(--ink) 35%, transparent); margin-right: 7px;
  vertical-align: -2px; }
.pictures { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr));
  gap: 6px; }
.pictures img { width: 100%; display: block; border-radius: 5px; background: #000; }
.title { color: var(--soft); font-size: 13px; }
.caption { grid-column: 1 / -1; margin: 0 0 12px; color: var(--soft); font-size: 12.5px;
  font-variant-numeric: tabular-nums; }
.note { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
video { width: 100%; display: block; border-radius: 8px; background: #000; }
table { border-collapse: collapse; width: 100%; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 12px; border-top: 1px solid var(--line);
  white-space: nowrap; }
th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.meter { width: 38%; text-align: left; }
.meter div { height: 10px; border-radius: 5px; background: var(--line); overflow: hidden; }
.fill { display: block; height: 100%; background: var(--first); }
.calm { color: var(--soft); }
.loss td:last-child { color: var(--loss); font-weight: 600; }
code { font: 12.5px ui-monospace, "DejaVu Sans Mono", monospace; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 12px; margin-bottom: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px 8px; }
figcaption { font-size: 13px; color: var(--soft); margin-bottom: 6px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.dots { stroke-width: 5; stroke-linecap: round; fill: none; }
.dots.first { stroke: var(--first); } .dots.second { stroke: var(--second); }
.dots.third { stroke: var(--third); }
.bar.first { fill: var(--first); } .bar.third { fill: var(--third); }
.keys { margin: 4px 0 0; font-size: 13px; } .keys span { margin-right: 16px; }
.keys span::before { content: ""; display: inline-block; width: 9px; height: 9px;
  border-radius: 50%; margin-right: 6px; background: currentColor; }
.keys .first { color: var(--first); } .keys .second { color: var(--second); }
footer { color: var(--soft); font-size: 13px; border-top: 1px solid var(--line);
  padding-top: 6px; margin-top: 34px; } a { color: var(--first); }
"""
