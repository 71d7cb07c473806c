//! How a report looks: one style sheet for the page and its drawings, light and dark.

/// The style sheet.
pub(super) const STYLE: &str = r#"
:root{--ink:#1b2733;--soft:#5b6b7a;--line:#dde3e9;--card:#fff;--page:#f2f5f8;--accent:#2563a8;
--wait:#e6ebf0;--prep:#c9d4df;--ready:#9fb9d6;--recv:#4f8fce;--have:#58b99d;--verif:#3aa583;--boot:#8e7cc3;--run:#1d8a5b;
--bad:#d1495b;--quiet:#8d5a97;--other:#a9a9a9;--warn:#e0a526}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#93a1af;--line:#2c3844;--card:#17202a;--page:#0e141b;
--accent:#6aa9ec;--wait:#232f3a;--prep:#3a4856;--ready:#47617e;--recv:#3f7fc0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:28px;margin:0 0 4px;line-height:1.2}
h2{font-size:18px;margin:0 0 10px}
p{margin:4px 0 10px;color:var(--soft);max-width:80ch}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:18px 0;overflow-x:auto}
.badge{display:inline-block;border-radius:999px;padding:2px 14px;font-weight:700;color:#fff;background:var(--run)}
.badge.no{background:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:24px;font-variant-numeric:tabular-nums;line-height:1.25}
.tile span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--soft);font-weight:600;border-bottom:1px solid var(--line);padding:6px 12px 6px 0}
td{border-bottom:1px solid var(--line);padding:6px 12px 6px 0;vertical-align:top}
tr:last-child td{border-bottom:0}
td.yes::before{content:"\2713";color:var(--run);font-weight:700}
td.no::before{content:"\2717";color:var(--bad);font-weight:700}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}
pre{white-space:pre-wrap;margin:6px 0 0;color:var(--soft);font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,monospace}
details summary{cursor:pointer;color:var(--accent)}
.key{display:flex;flex-wrap:wrap;gap:6px 18px;margin:8px 0 0;font-size:13px;color:var(--soft)}
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
svg{width:100%;height:auto;display:block}
svg rect{shape-rendering:crispEdges}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .note{fill:var(--soft);font-size:11px}
svg .axis{stroke:var(--line);stroke-width:1}
svg .lane{fill:var(--page)}
svg .wait,i.wait{fill:var(--wait);background:var(--wait)}
svg .prep,i.prep{fill:var(--prep);background:var(--prep)}
svg .ready,i.ready{fill:var(--ready);background:var(--ready)}
svg .recv,i.recv{fill:var(--recv);background:var(--recv)}
svg .have,i.have{fill:var(--have);background:var(--have)}
svg .verif,i.verif{fill:var(--verif);background:var(--verif)}
svg .boot,i.boot{fill:var(--boot);background:var(--boot)}
svg .run,i.run{fill:var(--run);background:var(--run)}
svg .bad,i.bad{fill:var(--bad);background:var(--bad)}
svg .quiet,i.quiet{fill:var(--quiet);background:var(--quiet)}
svg .other,i.other{fill:var(--other);background:var(--other)}
svg .window{fill:var(--accent);opacity:.22}
svg .frame{fill:var(--accent)}
svg .coded{fill:var(--warn)}
svg .poll{stroke:var(--bad);stroke-width:1.5}
svg .fault{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:4 3}
svg .down{fill:var(--bad);opacity:.18}
svg .curve{fill:none;stroke:var(--ink);stroke-width:1.8}
svg .spent{fill:none;stroke:var(--accent);stroke-width:1.6}
svg .limit{stroke:var(--bad);stroke-width:1.2;stroke-dasharray:5 4}
svg .gateway{fill:var(--ink);stroke:var(--card);stroke-width:1.5}
svg .ring{fill:none;stroke:var(--line)}
"#;
