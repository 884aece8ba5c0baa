// The page's tables and plots. Sentences are in the page already; here is what moves.
//
// `state` is what the reader chose, `draw()` shows it: every change of state draws all again. Names come from data and
// go into the page as text (`textContent`) or through `escape`, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const escape = echarts.format.encodeHTML;

// ---- What is there --------------------------------------------------------------------------------------------------

const unique = (values) => [...new Set(values)];
const workloads = unique(data.records.map((record) => record.workload));
const contenders = unique(data.records.map((record) => record.contender));
const kindOf = new Map(data.records.map((record) => [record.contender, record.kind]));
const strategies = contenders.filter((name) => kindOf.get(name) === "strategy");
const front = (workload) => data.fronts[workload] || [];

const state = {
  workload: "", // empty: all of them
  chosen: new Set(contenders),
  theme: stored("theme") || "system",
};

function stored(name) {
  try { return localStorage.getItem("heapwright-" + name); } catch { return null; } // files may have no storage
}
function store(name, value) {
  try { localStorage.setItem("heapwright-" + name, value); } catch { /* then not */ }
}

// The long lists of a workload by contender; unpacked when first asked for.
const unpacked = new Map();
function series(workload) {
  if (!unpacked.has(workload)) unpacked.set(workload, unpack(workload));
  return unpacked.get(workload);
}
async function unpack(workload) {
  const packed = [...document.querySelectorAll("script.series")].find((script) => script.dataset.workload === workload);
  if (!packed) return {};
  const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// ---- Figures as people read them ------------------------------------------------------------------------------------

const number = new Intl.NumberFormat("en");
const digits = (value) => value >= 99.5 ? number.format(Math.round(value)) : value.toPrecision(3);
const given = (value) => value !== undefined && value !== null;
function scaled(value, base, units) {
  let unit = 0;
  while (value >= base && unit < units.length - 1) { value /= base; unit++; }
  return (Number.isInteger(value) && value < 1000 ? value : +value.toPrecision(3)) + " " + units[unit];
}
const bytes = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB"]);
const count = (value) => scaled(value, 1000, ["", "k", "M", "G"]).trim();
const nanoseconds = (value) => scaled(value, 1000, ["ns", "µs", "ms", "s"]);

// ---- How contenders look: a colour, a symbol and a dash of their own, the same everywhere ---------------------------

// Paul Tol's muted colours, told apart by most eyes; symbol and dash tell them apart without colours.
const COLOURS = ["#4477aa", "#cc6677", "#228833", "#aa8800", "#2299bb", "#aa4499", "#888888", "#dd7733"];
const SYMBOLS = [
  "circle", "rect", "triangle", "diamond",
  "path://M4 0h2v4h4v2h-4v4h-2v-4h-4v-2h4z", // plus
  "path://M0 0h10l-5 10z", // triangle, point down
  "path://M2 0l3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3-3-3z", // cross
  "path://M5 0l1.5 3.5h3.5l-2.8 2.4 1.1 4.1-3.3-2.3-3.3 2.3 1.1-4.1-2.8-2.4h3.5z", // star
  "path://M3 0h4v10h-4z", "path://M0 3h10v4h-10z", // bars, upright and lying
  "path://M5 0l5 4-2 6h-6l-2-6z", // pentagon
];
const DASHES = ["solid", [8, 4], [2, 3], [10, 3, 2, 3], [14, 4], [5, 2, 1, 2, 1, 2]];
const look = (index) => ({
  colour: COLOURS[index % COLOURS.length],
  symbol: SYMBOLS[index % SYMBOLS.length],
  dash: DASHES[Math.floor(index / 2) % DASHES.length],
});
const looks = new Map(contenders.map((name, index) => [name, look(index)]));

// ---- Plots ----------------------------------------------------------------------------------------------------------

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Map();

// Takes a plot away. Heat maps are painted in several frames; what is yet to come of one is called off by painting
// nothing, for ECharts 6.1 would paint on with what `dispose` took.
function remove(element) {
  const chart = charts.get(element);
  if (!chart) return;
  charts.delete(element);
  chart.clear();
  chart.getZr().flush();
  chart.dispose();
}

// Shows a plot, or a sentence where there is nothing to plot.
function plot(id, option, instead) {
  const element = typeof id === "string" ? $(id) : id;
  remove(element);
  element.classList.toggle("empty", !option);
  element.style.height = option ? "" : "auto";
  element.textContent = option ? "" : instead;
  if (!option) return;
  const chart = echarts.init(element, null, { renderer: "canvas" });
  charts.set(element, chart);
  const text = { color: css("--ink") };
  const faint = css("--faint");
  const axis = (axis) => ({
    nameLocation: "middle",
    nameTextStyle: text,
    axisLine: { show: true, lineStyle: { color: faint } },
    splitLine: { lineStyle: { color: css("--line") } },
    ...axis,
    axisLabel: { color: css("--ink"), hideOverlap: true, ...axis.axisLabel },
  });
  chart.setOption({
    animation: false,
    backgroundColor: css("--paper"), // on paper and in a saved picture, what was drawn for a dark screen stays on dark
    textStyle: { fontFamily: "system-ui, sans-serif" },
    aria: { enabled: true }, // a description for those who do not see the canvas
    toolbox: { feature: { saveAsImage: { title: "Save as PNG" } }, iconStyle: { borderColor: faint }, bottom: 0, right: 0, itemSize: 13 },
    ...option,
    legend: option.legend && {
      type: "scroll", top: 0, left: 0, right: 0, textStyle: text, pageTextStyle: text, pageIconColor: css("--accent"), itemWidth: 14, itemHeight: 11,
      inactiveColor: faint, inactiveBorderColor: faint, ...option.legend,
    },
    tooltip: { confine: true, backgroundColor: css("--panel"), borderColor: css("--line"), textStyle: text, ...option.tooltip },
    xAxis: axis({ nameGap: 28, ...option.xAxis }),
    yAxis: axis({ ...option.yAxis }),
  });
}

// A tooltip: a bold line, and lines below. All of it is text.
const tip = (title, lines) => `<b>${escape(title)}</b>` + lines.map((line) => "<br>" + escape(line)).join("");

// Bars of intervals: [x, y, low, high] along one axis.
const whiskers = (along, name, colour, values) => ({
  type: "custom", name, silent: true, z: 1, clip: true, itemStyle: { color: colour },
  encode: along === "x" ? { x: [2, 3], y: 1 } : { x: 0, y: [2, 3] },
  data: values,
  renderItem(_, api) {
    const end = (value) => api.coord(along === "x" ? [value, api.value(1)] : [api.value(0), value]);
    const [[x1, y1], [x2, y2]] = [end(api.value(2)), end(api.value(3))];
    const [dx, dy] = along === "x" ? [0, 4] : [4, 0];
    const line = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colour, lineWidth: 1.5 } });
    return { type: "group", children: [line(x1, y1, x2, y2), line(x1 - dx, y1 - dy, x1 + dx, y1 + dy), line(x2 - dx, y2 - dy, x2 + dx, y2 + dy)] };
  },
});

const between = (pair) => pair ? `95 % interval ${digits(pair[0])} to ${digits(pair[1])}` : "no interval";
const bound = (row) => row.status === "slow" ? "≥ " : "";
// Of whole programs nobody counts the live bytes: their footprints are relative to the reference's.
const footprint = (row) => row.footprint_ratio ?? row.relative_footprint;
const footprintInterval = (row) => given(row.peak_footprint_error) &&
  [-1, 1].map((sign) => footprint(row) * (1 + sign * row.peak_footprint_error / row.peak_footprint));

// Rows of the chosen workload and contenders; over all workloads, the means in the shape of rows.
function rows() {
  const all = state.workload
    ? data.records.filter((record) => record.workload === state.workload)
    : data.means.filter((mean) => mean.workloads > 0).map((mean) => ({
      ...mean, workload: "mean", status: mean.at_least ? "slow" : "measured",
      reason: mean.complete ? "" : `over ${mean.workloads} of ${workloads.length} workloads, compares with nobody’s`,
    }));
  return all.filter((row) => state.chosen.has(row.contender));
}
const records = () => data.records.filter((record) =>
  (!state.workload || record.workload === state.workload) && state.chosen.has(record.contender));
const compared = () => rows().filter((row) => row.status === "measured" && row.complete !== false);

// A logarithmic axis around ratios, with lines at figures that people know: the more, the closer the ratios are.
function ratios(values) {
  const positive = values.filter((value) => value > 0);
  const [min, max] = [Math.min(...positive) / 1.15, Math.max(...positive) * 1.15];
  const steps = max / min > 30 ? [1, 2, 5] : max / min > 4 ? [1, 1.5, 2, 3, 5, 7] : [1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
  const decades = [0.01, 0.1, 1, 10, 100, 1000];
  const customValues = decades.flatMap((decade) => steps.map((step) => +(decade * step).toPrecision(2))).filter((value) => value > min && value < max);
  return { type: "log", logBase: 10, min, max, axisTick: { customValues }, axisLabel: { formatter: String, customValues } };
}

function drawTrade() {
  const all = compared().filter((row) => given(row.relative_time) && given(footprint(row)));
  // Who is far off the front squeezes the rest into a corner, so they are named instead, unless all are asked for.
  const fronts = all.filter((row) => front(state.workload).includes(row.contender) || row.contender === data.reference);
  const far = (row, value) => fronts.length > 0 && value(row) > 1.5 * Math.max(...fronts.map(value));
  const outside = $("far").checked ? [] : all.filter((row) => far(row, (row) => row.relative_time) || far(row, footprint));
  const points = all.filter((row) => !outside.includes(row));
  $("outside").textContent = outside.length ? "Far outside: " + outside.map((row) => `${row.contender} (${digits(row.relative_time)}, ${digits(footprint(row))})`).join(", ") + "." : "";
  if (!points.length) return plot("trade", null, `Nothing to compare: no chosen contender was measured to the end beside ${data.reference}.`);
  const best = front(state.workload);
  const onFront = best.map((name) => points.find((row) => row.contender === name)).filter(Boolean);
  const point = (row) => ({
    name: row.contender, value: [row.relative_time, footprint(row)], row,
    label: best.includes(row.contender) ? { fontWeight: "bold", fontSize: 13 } : {},
  });
  const group = (kind, symbol, name) => ({
    type: "scatter", name, symbol, symbolSize: 13, z: 4,
    data: points.filter((row) => row.kind === kind).sort((one, other) => best.includes(other.contender) - best.includes(one.contender)).map(point), // whose names must not hide come first
    itemStyle: { color: kind === "strategy" ? COLOURS[0] : COLOURS[7], borderColor: css("--paper") },
    label: { show: true, position: "top", formatter: "{b}", color: css("--ink"), fontSize: 11, textBorderColor: css("--paper"), textBorderWidth: 3 },
    labelLayout: { hideOverlap: true, moveOverlap: "shiftY" },
  });
  const bars = points.filter((row) => row.relative_time_interval).map((row) => [row.relative_time, footprint(row), ...row.relative_time_interval]);
  plot("trade", {
    grid: { left: 55, right: 90, top: 40, bottom: 50 },
    legend: {},
    tooltip: { formatter: ({ data: { row }, name }) => row ? tip(name, [`time ${digits(row.relative_time)} of ${data.reference}’s, ${between(row.relative_time_interval)}`, `footprint ${digits(footprint(row))} of ${given(row.footprint_ratio) ? "peak live bytes" : data.reference + "’s"}`, best.includes(name) ? "on the Pareto front" : "another is faster and leaner"]) : name },
    xAxis: { name: `time relative to ${data.reference}`, ...ratios(points.map((row) => row.relative_time)) },
    yAxis: { name: "footprint over live bytes", nameGap: 38, ...ratios(points.map(footprint)) },
    series: [
      group("strategy", "circle", "strategies"),
      group("peer", "diamond", "peers"),
      { type: "line", name: "Pareto front", step: "end", symbol: "none", silent: true, z: 0, data: onFront.map((row) => [row.relative_time, footprint(row)]), lineStyle: { type: [6, 4], width: 2 }, itemStyle: { color: css("--accent") } },
      whiskers("x", "95 % intervals", css("--faint"), bars),
    ],
  });
}

// Contenders down, figures across; over all workloads a symbol for each, and the mean.
function drawRatios(id, title, figure, interval) {
  // Lower bounds compare with nothing: they stand below the rest.
  const cut = (row) => row.status === "slow";
  const shown = rows().filter((row) => given(figure(row))).sort((one, other) => cut(other) - cut(one) || figure(other) - figure(one));
  if (!shown.length) return plot(id, null, `No ${title.toLowerCase()}.`);
  const describe = (row) => tip(row.contender, [`${row.workload}: ${bound(row)}${digits(figure(row))}`, between(interval(row)), row.reason || ""].filter(Boolean));
  const scatter = (name, rows, rest) => ({
    type: "scatter", name, symbolSize: 9, ...rest,
    data: rows.filter((row) => given(figure(row))).map((row) => ({ value: [figure(row), row.contender], row })),
  });
  const each = state.workload ? [] : workloads.map((workload, index) => scatter(workload,
    records().filter((record) => record.workload === workload),
    { symbol: look(index).symbol, itemStyle: { color: look(index).colour, opacity: .75 } }));
  const main = scatter(state.workload || "mean", shown, { symbol: "diamond", symbolSize: 13, z: 5, itemStyle: { color: css("--ink") } });
  main.markLine = { symbol: "none", silent: true, data: [{ xAxis: 1 }], lineStyle: { color: css("--faint"), type: "solid" }, label: { show: false } };
  const bars = shown.filter(interval).map((row) => [figure(row), row.contender, ...interval(row)]);
  const values = [...shown, ...(state.workload ? [] : records())].map(figure).filter(given);
  plot(id, {
    grid: { left: 152, right: 24, top: 64, bottom: 44 },
    title: { text: title, top: 26, left: 0, textStyle: { color: css("--ink"), fontSize: 14 } },
    legend: state.workload ? undefined : {},
    tooltip: { formatter: ({ data }) => data.row ? describe(data.row) : "" },
    xAxis: { name: "lower is better", ...ratios([1, ...values]) },
    yAxis: { type: "category", data: shown.map((row) => row.contender), axisLabel: { interval: 0, hideOverlap: false, fontSize: 11, width: 144, overflow: "truncate" } },
    series: [...each, main, whiskers("x", "intervals", css("--ink"), bars)],
  });
}

// A legend, and the lines that show at first: few enough to read, and the first in the legend. The choice of contenders says which there are at all.
function firstShown(names, workload) {
  const first = new Set([...front(workload), data.reference]);
  const few = names.length <= 6 || !names.some((name) => first.has(name));
  const selected = Object.fromEntries(names.map((name) => [name, few || first.has(name)]));
  return { data: [...names].sort((one, other) => selected[other] - selected[one]), selected, itemWidth: 34 };
}

const line = (name, look, values, rest) => ({
  type: "line", name, data: values, showSymbol: true, symbol: look.symbol, symbolSize: 6,
  itemStyle: { color: look.colour }, lineStyle: { type: look.dash, width: 2 }, emphasis: { focus: "series" }, ...rest,
});

function drawLatencies(workload, lists) {
  const call = $("call").value;
  const names = contenders.filter((name) => state.chosen.has(name) && lists[name]?.latency?.[call]);
  if (!names.length) return plot("latencies", null, "No latencies were measured here.");
  // From counts to "a share of 1 - 1/x took no longer than y".
  const curve = ({ count, buckets, max }) => {
    let below = 0;
    const points = [];
    for (const [limit, calls] of buckets) {
      below += calls;
      points.push([below < count ? count / (count - below) : count, Math.max(1, Math.min(limit, max))]);
    }
    return points;
  };
  const share = (x) => `${+(100 - 100 / x).toFixed(Math.max(0, Math.round(Math.log10(x)) - 2))} %`;
  plot("latencies", {
    grid: { left: 60, right: 24, top: 48, bottom: 50 },
    legend: firstShown(names, workload),
    tooltip: { formatter: ({ seriesName, value }) => tip(seriesName, [`${share(value[0])} of calls took at most ${nanoseconds(value[1])}`]) },
    xAxis: { type: "log", min: 1, name: "share of calls that took no longer", axisLabel: { formatter: (x) => x < 10 ? "0 %" : share(x) } },
    yAxis: { type: "log", name: "time of one call", nameGap: 46, axisLabel: { formatter: nanoseconds } },
    series: names.map((name) => line(name, looks.get(name), curve(lists[name].latency[call]))),
  });
}

// Time runs along operations.
const time = (operations) => ({ type: "value", name: "operations", min: 0, max: operations[operations.length - 1], axisLabel: { formatter: count } });
const overTime = (params, unit) => tip(`after ${number.format(params[0].value[0])} operations`, params.map((param) => `${param.seriesName}: ${unit(param.value[1])}`));
// An axis of bytes, with lines at powers of two.
const memory = (name, values) => ({
  type: "value", name, nameGap: 62, min: 0, interval: 2 ** Math.ceil(Math.log2(values.reduce((most, value) => Math.max(most, value), 1) / 8)), axisLabel: { formatter: bytes },
});
// A symbol now and then tells lines apart; at each sample it would be a smear.
const sparse = (values) => (_, { dataIndex }) => dataIndex % Math.ceil(values.length / 9) === 4 ? 8 : 0;

function drawMemory(workload, lists) {
  const names = contenders.filter((name) => state.chosen.has(name) && lists[name]?.timeline);
  if (!names.length) return plot("memory", null, "No footprint over time was measured here.");
  const shown = firstShown(names, workload);
  const { operations, live } = lists[names[0]].timeline;
  const zip = (times, values) => times.map((time, index) => [time, values[index]]);
  // By the lines that show: one that does not may reach ten times as high.
  const resident = (selected) => memory("resident", names.filter((name) => selected[name]).flatMap((name) => lists[name].timeline.resident).concat(live));
  const lines = names.map((name) => {
    const { operations, resident } = lists[name].timeline;
    return line(name, looks.get(name), zip(operations, resident), { symbolSize: sparse(resident) });
  });
  plot("memory", {
    grid: { left: 75, right: 24, top: 48, bottom: 50 },
    legend: { ...shown, data: ["live", ...shown.data] },
    tooltip: { trigger: "axis", formatter: (params) => overTime(params, bytes) },
    xAxis: time(operations),
    yAxis: resident(shown.selected),
    series: [{ type: "line", name: "live", data: zip(operations, live), symbol: "none", areaStyle: { opacity: .25 }, lineStyle: { width: 1 }, itemStyle: { color: css("--faint") } }, ...lines],
  });
  const chart = charts.get($("memory"));
  chart.on("legendselectchanged", ({ selected }) => chart.setOption({ yAxis: resident(selected) }));
}

function drawParts(lists) {
  const select = $("strategy");
  const names = strategies.filter((name) => state.chosen.has(name) && lists[name]?.timeline?.parts);
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name)));
  if (names.includes(before)) select.value = before;
  if (!names.length) {
    plot("parts", null, "No strategy’s bytes were taken apart here.");
    return plot("sizes", null, "No free bytes by size here.");
  }
  const { operations, live, resident, held, parts } = lists[select.value].timeline;
  const zip = (values) => operations.map((time, index) => [time, values[index]]);
  const dirty = parts.dirty_free;
  const areas = [
    ["live", live], ["inside blocks", parts.internal], ["headers", parts.headers], ["cached", parts.cached],
    ...(dirty ? [["free, resident", dirty], ["free, not resident", parts.free.map((free, index) => Math.max(0, free - dirty[index]))]] : [["free", parts.free]]),
  ];
  const hatches = ["rect", "triangle", "circle", "diamond", "arrow", "pin"];
  const lines = [["resident", resident, [6, 4]], ...(held ? [["held", held, "solid"]] : []), ["largest free block", parts.largest_free, [2, 3]]];
  plot("parts", {
    grid: { left: 75, right: 24, top: 48, bottom: 50 },
    legend: { itemWidth: 34 },
    tooltip: { trigger: "axis", formatter: (params) => overTime(params, bytes) },
    xAxis: time(operations),
    yAxis: memory(select.value, [...resident, ...(held || [])]),
    series: [
      ...areas.map(([name, values], index) => ({
        type: "line", stack: "bytes", name, data: zip(values), symbol: hatches[index], symbolSize: sparse(values), lineStyle: { width: 1 },
        areaStyle: { opacity: .65 }, itemStyle: { color: COLOURS[[0, 4, 5, 3, 7, 6][index]] },
      })),
      ...lines.map(([name, values, type]) => ({ type: "line", name, data: zip(values), symbol: "none", lineStyle: { type, width: 2 }, itemStyle: { color: css("--ink") } })),
    ],
  });
  const used = unique(parts.free_by_size.flatMap((sizes) => sizes.flatMap((bytes, size) => bytes ? [size] : [])));
  if (!used.length) return plot("sizes", null, `${select.value} had no free blocks.`);
  const [low, high] = [Math.min(...used), Math.max(...used)];
  const cells = parts.free_by_size.flatMap((sizes, column) =>
    sizes.flatMap((free, size) => free && size >= low ? [[column, size - low, free]] : []));
  const name = (size) => bytes(2 ** size);
  heat("sizes", cells, {
    grid: { left: 75, right: 24, top: 58, bottom: 50 },
    tooltip: { formatter: ({ value: [column, size, free] }) => tip(`after ${number.format(operations[column])} operations`, [`${bytes(free)} free in blocks of ${name(size + low)} to ${name(size + low + 1)}`]) },
    xAxis: { name: "operations", data: operations, axisLabel: { formatter: count } },
    yAxis: { name: "size of the blocks", nameGap: 62, data: Array.from({ length: high - low + 1 }, (_, index) => name(index + low)) },
    visualMap: { min: 0, max: Math.max(...cells.map((cell) => cell[2])), formatter: bytes, text: ["free bytes: most", "none"] },
  });
}

// What is behind cells, where there are none: stripes, which are neither light nor dark.
function hatch() {
  const tile = Object.assign(document.createElement("canvas"), { width: 6, height: 6 });
  const pen = tile.getContext("2d");
  pen.fillStyle = css("--paper");
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = css("--hatch");
  for (const start of [-6, 0, 6]) { pen.moveTo(start, 6); pen.lineTo(start + 6, 0); }
  pen.stroke();
  return tile;
}

// Cells in colours whose lightness alone says how much: they can be read in grey.
const SHADES = ["#fbe9a9", "#f0b35c", "#d9735a", "#a03a7a", "#50207a", "#1a0b3b"];
function heat(id, cells, { grid, visualMap, xAxis, yAxis, ...option }) {
  plot(id, {
    ...option,
    grid: { ...grid, show: true, borderWidth: 0, backgroundColor: { image: hatch(), repeat: "repeat" } },
    visualMap: { type: "continuous", orient: "horizontal", top: 0, left: 0, itemHeight: 120, itemWidth: 12, calculable: true, inRange: { color: SHADES }, textStyle: { color: css("--ink") }, ...visualMap },
    xAxis: { type: "category", splitLine: { show: false }, axisTick: { show: false }, ...xAxis },
    yAxis: { type: "category", splitLine: { show: false }, axisTick: { show: false }, ...yAxis },
    series: [{ type: "heatmap", data: cells, progressive: 0, itemStyle: { borderWidth: 0 }, emphasis: { itemStyle: { borderColor: css("--ink"), borderWidth: 1 } } }],
  });
}

function drawMaps(lists) {
  const names = strategies.filter((name) => state.chosen.has(name) && lists[name]?.heap_map);
  for (const element of [...charts.keys()]) {
    if ($("maps").contains(element)) remove(element);
  }
  $("maps").classList.toggle("empty", !names.length);
  if (!names.length) return void ($("maps").textContent = "No heap maps were made here.");
  const figures = names.map((name) => {
    const figure = document.createElement("figure");
    const caption = figure.appendChild(document.createElement("figcaption"));
    const element = figure.appendChild(document.createElement("div"));
    element.className = "plot";
    const map = lists[name].heap_map;
    // The same in words: how it stood when the heap was largest.
    const mapped = (column) => column.filter((used) => used >= 0);
    const largest = map.cells.reduce((most, column, index) => mapped(column).length > mapped(map.cells[most]).length ? index : most, 0);
    const rows = mapped(map.cells[largest]);
    const share = (rows) => rows.length ? Math.round(rows.reduce((sum, used) => sum + used, 0) / rows.length) : 0;
    const empty = rows.filter((used) => used === 0).length;
    caption.append(Object.assign(document.createElement("b"), { textContent: name }),
      `: at its largest ${bytes(rows.length * map.bytes_per_row)}, ${share(rows)} % in use; ${empty} of ${rows.length} rows are free throughout.`);
    return { name, element, map, figure };
  });
  $("maps").replaceChildren(...figures.map(({ figure }) => figure));
  for (const { name, element, map } of figures) {
    const cells = map.cells.flatMap((column, x) => column.flatMap((used, y) => used >= 0 ? [[x, y, used]] : []));
    const address = (row) => bytes(row * map.bytes_per_row);
    heat(element, cells, {
      grid: { left: 68, right: 8, top: 48, bottom: 44 },
      toolbox: undefined,
      aria: { enabled: true, label: { description: `Heap map of ${name}` } },
      tooltip: { formatter: ({ value: [x, y, used] }) => tip(`after ${number.format(map.operations[x])} operations`, [`${address(y)} to ${address(y + 1)}: ${used} % in use`]) },
      xAxis: { name: "operations", data: map.operations, axisLabel: { formatter: count } },
      yAxis: { data: Array.from({ length: map.rows }, (_, row) => address(row)) },
      visualMap: { min: 0, max: 100, text: ["in use", "free"], itemHeight: 80 },
    });
  }
}

function drawPolicies() {
  $("no-policies").hidden = data.policies.length > 0;
  $("has-policies").hidden = !data.policies.length;
  if (!data.policies.length) return;
  const select = $("operation");
  if (!select.options.length) select.append(...unique(data.policies.map((cost) => cost.operation)).map((name) => new Option(name)));
  const costs = data.policies.filter((cost) => cost.operation === select.value);
  const names = unique(costs.map((cost) => cost.policy));
  const of = (name) => costs.filter((cost) => cost.policy === name).sort((one, other) => one.free_blocks - other.free_blocks);
  plot("policies", {
    grid: { left: 65, right: 24, top: 48, bottom: 50 },
    legend: {},
    tooltip: { formatter: ({ seriesName, value }) => tip(seriesName, [`${number.format(value[0])} free blocks: ${nanoseconds(value[1])}`, between(value.slice(2))]) },
    xAxis: { type: "log", name: "free blocks", axisLabel: { formatter: count } },
    yAxis: { type: "log", name: `time of ${select.value}`, nameGap: 50, axisLabel: { formatter: nanoseconds } },
    series: names.flatMap((name, index) => {
      const values = of(name).map((cost) => [cost.free_blocks, cost.ns, ...cost.interval]);
      return [line(name, look(index), values), whiskers("y", name, look(index).colour, values)];
    }),
  });
  table("t-policies", costs, [
    text("policy", (cost) => cost.policy),
    figure("free blocks", (cost) => cost.free_blocks, number.format),
    figure("ns", (cost) => cost.ns, digits, (cost) => `${digits(cost.interval[0])} to ${digits(cost.interval[1])}`),
  ]);
}

// ---- Tables ---------------------------------------------------------------------------------------------------------

// A column: its title, the value it is sorted by, how that is written, and what stands small beside it.
const text = (title, value) => ({ title, value, write: String, text: title === "note" ? "text long" : "text" });
const figure = (title, value, write = digits, beside = () => "", about = "") => ({ title, value, write, beside, about, star: true });
const sorting = new Map([["t-time", [`time / ${data.reference}`, false]]]); // by table: [column, descending]

function table(id, rows, columns) {
  const place = $(id);
  columns = columns.filter((column) => rows.some((row) => given(column.value(row)) && column.value(row) !== ""));
  if (!rows.length || !columns.some((column) => !column.text)) {
    place.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: "Nothing was measured here." }));
    return;
  }
  const [by, down] = sorting.get(id) || [];
  const column = columns.find((column) => column.title === by);
  const sorted = column ? [...rows].sort((one, other) => order(column.value(one), column.value(other), down)) : rows;
  const build = (tag, children = [], fields = {}) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...children);
    return element;
  };
  const head = columns.map((column) => {
    const sorted = column.title === by;
    const button = build("button", [column.title + (sorted ? (down ? " ▼" : " ▲") : " ↕")], { type: "button", title: column.about || "Sort" });
    button.onclick = () => {
      sorting.set(id, [column.title, sorted ? !down : false]);
      table(id, rows, columns);
      [...place.querySelectorAll("thead button")].find((other) => other.textContent.startsWith(column.title))?.focus();
    };
    const cell = build("th", [button], { scope: "col", className: column.text || "" });
    if (sorted) cell.ariaSort = down ? "descending" : "ascending";
    return cell;
  });
  // The least of a column gets a star, where rows compare with each other.
  const one = unique(rows.map((row) => row.workload)).length <= 1 && rows.length > 1;
  const comparable = (row) => row.kind !== "floor" && row.complete !== false && (row.status || "measured") === "measured";
  const least = columns.map((column) => {
    const values = rows.filter(comparable).map(column.value).filter(given);
    return one && column.star && new Set(values).size > 1 ? Math.min(...values) : NaN;
  });
  const body = sorted.map((row) => build("tr", columns.map((column, index) => {
    const value = column.value(row);
    if (index === 0) return build("th", [column.write(value)], { scope: "row" });
    if (!given(value)) return build("td", ["–"], { title: row.reason || "not measured", className: column.text || "" });
    const beside = column.beside?.(row);
    const cell = build("td", [column.write(value, row), ...(beside ? [" ", build("small", [beside])] : [])]);
    cell.className = column.text ? column.text : comparable(row) && value === least[index] ? "best" : "";
    return cell;
  })));
  const whole = build("table", [build("thead", [build("tr", head)]), build("tbody", body)]);
  const scroll = build("div", [whole], { tabIndex: 0, role: "region", ariaLabel: place.closest("section").querySelector("h2").textContent + ", table" });
  place.replaceChildren(scroll);
}

// What is missing is always last.
function order(one, other, down) {
  if (!given(one) || !given(other)) return given(one) ? -1 : given(other) ? 1 : 0;
  const order = typeof one === "string" ? one.localeCompare(other) : one - other;
  return down ? -order : order;
}

function drawTables() {
  const name = text("contender", (row) => row.contender);
  const workload = state.workload ? [] : [text("workload", (row) => row.workload)];
  const kind = text("kind", (row) => row.kind);
  const status = text("status", (row) => (row.status === "measured" ? "" : row.status === "failed" ? "✗ failed" : row.status) + (row.complete === false ? " *" : ""));
  const slow = (write) => (value, row) => bound(row) + write(value);
  table("t-time", rows(), [
    name,
    figure(`time / ${data.reference}`, (row) => row.relative_time, slow(digits), (row) => row.relative_time_interval ? `${digits(row.relative_time_interval[0])} to ${digits(row.relative_time_interval[1])}` : "", "Time relative to the reference, with its 95 % interval"),
    text("difference", (row) => row.difference),
    figure("ns / operation", (row) => row.ns_per_op, slow(digits)),
    figure("footprint / live", (row) => row.footprint_ratio, slow(digits), () => "", "Peak footprint over peak live bytes"),
    figure(`footprint / ${data.reference}`, (row) => row.relative_footprint, slow(digits), () => "", "Peak footprint over the reference’s"),
    figure("peak footprint", (row) => row.peak_footprint, slow(bytes)),
    kind, status,
    text("note", (row) => row.reason || ""),
  ]);
  const calls = ["allocate", "free", "reallocate"].flatMap((call) => ["p50", "p99", "p999", "max"].map((part) =>
    figure(`${call} ${part.replace("p999", "p99.9")}`, (row) => row.latency?.[call]?.[part], nanoseconds)));
  table("t-latency", records().filter((row) => row.latency), [name, ...workload, ...calls]);
  const counted = records().filter((row) => row.counts || row.costs);
  const total = (calls) => calls && Object.values(calls).reduce((sum, calls) => sum + calls, 0);
  const most = (calls) => Object.entries(calls || {}).sort((one, other) => other[1] - one[1]).slice(0, 3).map(([call, times]) => `${call} ${number.format(times)}`).join(", ");
  const each = (title, name) =>
    figure(title, (row) => (row.costs?.operations && name in row.costs ? row.costs[name] / row.costs.operations : undefined), (value) => value.toFixed(4), () => "", "By callgrind, the harness’s own cost included");
  table("t-counts", counted, [
    name, ...workload,
    figure("minor faults", (row) => row.counts?.minor_faults, number.format),
    figure("major faults", (row) => row.counts?.major_faults, number.format),
    figure("system calls", (row) => total(row.counts?.system_calls), number.format, (row) => most(row.counts?.system_calls)),
    figure("instructions", (row) => row.counts?.instructions, count),
    figure("cache misses", (row) => row.counts?.cache_misses, count),
    each("instructions / operation", "instructions"),
    each("first-level misses / operation", "data_misses"),
    each("last-level misses / operation", "last_level_misses"),
    each("atomics / operation", "atomics"),
    each("locks / operation", "locks"),
  ]);
  const unavailable = counted.flatMap((row) => [...(row.counts?.unavailable || []), ...(row.costs?.unavailable ? [`costs of ${row.contender}: ${row.costs.unavailable}`] : [])]);
  $("unavailable").replaceChildren(...unique(unavailable).map((reason) =>
    Object.assign(document.createElement("li"), { textContent: "Not measured: " + reason })));
  table("t-fragmentation", records().filter((row) => row.fragmentation), [
    name, ...workload, ...[0, 1, 2, 3].map((which) => figure(`${which + 1}`, (row) => row.fragmentation[which])),
  ]);
}

// ---- Choices --------------------------------------------------------------------------------------------------------

function buildFilters() {
  $("workload").append(new Option(`All ${workloads.length} workloads`, ""), ...workloads.map((name) => new Option(name, name)));
  $("contenders").append(...contenders.map((name) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: name });
    box.onchange = () => { box.checked ? state.chosen.add(name) : state.chosen.delete(name); draw(); };
    const label = document.createElement("label");
    label.append(box, name);
    return label;
  }));
  $("workload").onchange = () => { state.workload = $("workload").value; draw(); };
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.onclick = () => {
      const which = button.dataset.choose;
      const wanted = (name) => which === "all" || kindOf.get(name) === which
        || (which === "front" && (front(state.workload).includes(name) || name === data.reference));
      state.chosen = new Set(contenders.filter(wanted));
      draw();
    };
  }
  for (const button of document.querySelectorAll(".choose")) {
    button.onclick = () => {
      state.workload = $("workload").value = button.dataset.workload;
      draw();
      $("filters").scrollIntoView();
      $("workload").focus({ preventScroll: true });
    };
  }
  for (const id of ["call", "strategy", "operation", "far"]) $(id).onchange = draw;
  $("theme").onclick = () => {
    const next = { system: "light", light: "dark", dark: "system" };
    state.theme = next[state.theme] || "light";
    store("theme", state.theme);
    draw();
  };
  // Printing changes it too, and does not wait for what is drawn then.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!matchMedia("print").matches) draw(); });
  addEventListener("resize", () => charts.forEach((chart) => chart.resize()));
  addEventListener("beforeprint", () => charts.forEach((chart) => chart.resize()));
}

// Shows the state. What belongs to one workload shows the first that has it when all are chosen.
let drawn = 0;
async function draw() {
  const turn = ++drawn;
  document.documentElement.dataset.theme = state.theme;
  $("theme").textContent = { system: "◐ Colours: as the system", light: "○ Colours: light", dark: "● Colours: dark" }[state.theme];
  $("chosen").textContent = `${state.chosen.size} of ${contenders.length}`;
  for (const box of $("contenders").querySelectorAll("input")) box.checked = state.chosen.has(box.value);
  const packed = [...document.querySelectorAll("script.series")].map((script) => script.dataset.workload);
  const one = state.workload || workloads.find((name) => packed.includes(name)) || workloads[0] || "";
  for (const where of document.querySelectorAll(".where")) where.textContent = state.workload ? "on " + state.workload : "over all workloads";
  for (const where of document.querySelectorAll(".one")) where.textContent = "on " + one + (state.workload ? "" : "; choose another above");
  drawTrade();
  drawRatios("times", `Time relative to ${data.reference}`, (row) => row.relative_time, (row) => row.relative_time_interval);
  drawRatios("footprints", "Peak footprint over peak live bytes", footprint, footprintInterval);
  drawTables();
  drawPolicies();
  const lists = await series(one);
  if (turn !== drawn) return; // a newer choice is being drawn
  drawLatencies(one, lists);
  drawMemory(one, lists);
  drawParts(lists);
  drawMaps(lists);
  document.documentElement.dataset.drawn = turn; // for tests: all is there
}

buildFilters();
draw();
