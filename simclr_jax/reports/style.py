"""The page's style sheet.

Plots are drawn for a white page; a dark one inverts them, which keeps their
hues. Photographs stay as they are.
"""

STYLE = """
:root { color-scheme: light dark; --page: #f7f8fa; --card: #ffffff;
  --ink: #1f2933; --muted: #5b6875; --line: #e1e5ea; --accent: #2563eb;
  --warn: #9a4a00; --warn-card: #fff6e9; --good: #0b6b3a; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #101214;
  --card: #1a1a1a; --ink: #e6e8ea; --muted: #a3adb8; --line: #33383e;
  --accent: #7aa2ff; --warn: #ffb866; --warn-card: #2a2118; --good: #6bd49b;
  --bad: #ff8a80; }
  .plot img { filter: invert(.9) hue-rotate(180deg); }
  .map img, .sheet img { background: white; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink);
  background: var(--page); max-width: 1120px; margin: 0 auto;
  padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; scroll-margin-top: 1rem; }
p { margin: .3rem 0 .9rem; color: var(--muted); max-width: 75ch; }
a { color: var(--accent); }
nav ul { list-style: none; display: flex; flex-wrap: wrap;
  gap: .3rem 1.1rem; padding: 0; margin: 1.2rem 0 0; font-size: .92rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: .15rem 1.4rem; margin: 0; } dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
.plots, .maps { display: grid; gap: .9rem; margin: .6rem 0; }
.plots { grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.maps { grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  max-width: 1120px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .7rem; }
figure.sheet { overflow-x: auto; margin: .6rem 0; }
figcaption { color: var(--muted); font-size: .88rem; margin-top: .4rem; }
img { display: block; max-width: 100%; height: auto; }
.plot img, .map img { width: 100%; }
.sheet img { min-width: 620px; border-radius: 4px; margin: 0 auto; }
.scroll { overflow-x: auto; background: var(--card); border-radius: 10px;
  border: 1px solid var(--line); padding: .2rem .9rem; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  width: 100%; font-size: .94rem; }
th, td { text-align: left; padding: .42rem 1.2rem .42rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td, tr:last-child th { border-bottom: 0; }
thead th { font-weight: 600; font-size: .88rem; color: var(--muted);
  border-bottom: 1px solid var(--line) !important; }
tbody th { font-weight: 400; } td { overflow-wrap: anywhere; }
td span { color: var(--muted); font-size: .85rem; white-space: nowrap; }
tr.ours th, tr.ours td { font-weight: 600; color: var(--accent); }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
.warnings { list-style: none; padding: 0; margin: .6rem 0; }
.warnings li { background: var(--warn-card); color: var(--ink);
  border-left: 4px solid var(--warn); border-radius: 6px;
  padding: .5rem .8rem; margin: .4rem 0; overflow-wrap: anywhere; }
.notes { font-size: .9rem; }
.mark { font-size: .8rem; font-weight: 600; border-radius: 99px;
  border: 1px solid; padding: .1rem .6rem; margin-left: .5rem;
  vertical-align: middle; } .mark.pass { color: var(--good); }
.mark.fail { color: var(--bad); }
@media (max-width: 480px) { body { padding: 1.2rem .8rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  th, td { padding-right: .8rem; } }
@media print { body { background: white; max-width: none; }
  figure, table { break-inside: avoid; } nav { display: none; } }
"""
