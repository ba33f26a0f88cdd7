// Plots: uPlot in our colours, with a cursor line that costs no drawing.
import { html, uPlot, useEffect, useLayoutEffect, useRef } from "./vendor.js";
import { colour, short, theme } from "./format.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

// Distances between marks where there is nothing between whole numbers: 1, 2, 5, 10, ...
const WHOLE = Array.from({ length: 36 }, (_, at) => [1, 2, 5][at % 3] * 10 ** Math.floor(at / 3));

function axes(unit, hasNoX, height, isWhole, isWholeY) {
  const font = `11px ${theme("font")}`;
  const common = {
    stroke: theme("quiet"), font, labelFont: font,
    grid: { stroke: theme("grid"), width: 1 }, ticks: { show: false },
  };
  return [
    { ...common, ...(isWhole ? { incrs: WHOLE } : {}), size: hasNoX ? 0 : 24, gap: 4, space: 70, values: hasNoX ? (_, marks) => marks.map(() => null) : unit || ((_, marks) => marks.map(short)) },
    { ...common, ...(isWholeY ? { incrs: WHOLE } : {}), size: 46, gap: 6, space: height < 100 ? 16 : 24, values: (_, marks) => marks.map(short) },
  ];
}

// series: [{ label, values, index | stroke, width, stepped, points, band }]
export function Plot({ label, x, series, height = 160, xUnit, marks, onReady, range, yRange, isTime, bars, hasNoX }) {
  const box = useRef(null);
  const plot = useRef(null);
  const shape = JSON.stringify([series.map((one) => [one.label, one.index, one.stroke, one.stepped, one.band, one.points]), height, isTime, hasNoX]);

  useLayoutEffect(() => {
    const element = box.current;
    function build() {
      if (plot.current) plot.current.destroy();
      const width = Math.max(120, element.clientWidth);
      const styles = series.map((one) => styleOf(one, bars));
      const lines = styles.map(({ stroke, width }, at) => (hasLine(series[at], bars) ? { stroke, width, isStepped: series[at].stepped } : null));
      const options = {
        width, height, padding: [6, 18, hasNoX ? 4 : 0, 0],
        cursor: { show: false, drag: { x: false, y: false } },
        legend: { show: false },
        scales: {
          x: { time: Boolean(isTime), ...(range ? { range: () => range() } : {}) },
          y: { range: yRange || padded },
        },
        axes: axes(isTime ? null : xUnit, hasNoX, height, !isTime && !bars, bars || series.every((one) => one.stepped)),
        series: [{}, ...styles],
        bands: bandsOf(series),
        hooks: {
          drawSeries: [(drawn, at) => lines[at - 1] && drawLine(drawn, at, lines[at - 1])],
          draw: [(drawn) => drawMarks(drawn, marksNow.current)],
        },
      };
      if (isTime) delete options.axes[0].values;
      plot.current = new (uPlot())(options, [x, ...series.map((one) => one.values)], element);
      plot.current.root.setAttribute("role", "img");
      plot.current.root.setAttribute("aria-label", label);
      if (onReady) onReady(plot.current);
    }
    build();
    const sized = new ResizeObserver(() => {
      const width = Math.max(120, element.clientWidth);
      if (plot.current && Math.abs(width - plot.current.width) > 1) plot.current.setSize({ width, height });
    });
    sized.observe(element);
    dark.addEventListener("change", build);
    return () => {
      dark.removeEventListener("change", build);
      sized.disconnect();
      plot.current.destroy();
      plot.current = null;
      if (onReady) onReady(null);
    };
  }, [shape]);

  const marksNow = useRef(marks);
  marksNow.current = marks;
  useEffect(() => {
    if (plot.current) plot.current.setData([x, ...series.map((one) => one.values)]);
  }, [x, marks, ...series.map((one) => one.values)]);

  return html`<div class="plot" ref=${box}></div>`;
}

function padded(_, low, high) {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (low === high) return [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
  const room = (high - low) * 0.06;
  return [low - room, high + room];
}

function styleOf(one, bars) {
  const stroke = one.stroke ? theme(one.stroke) : colour(one.index || 0);
  const style = { label: one.label, stroke, width: one.width ?? 1.25, points: { show: Boolean(one.points), size: 4 }, spanGaps: false };
  if (hasLine(one, bars)) style.paths = () => null;
  if (one.band) {
    style.width = 0;
    style.stroke = "transparent";
  }
  if (bars) {
    style.paths = uPlot().paths.bars({ size: [0.9, 40], align: 0 });
    style.fill = stroke;
    style.width = 0;
  }
  return style;
}

function hasLine(one, bars) {
  return !one.band && !bars;
}

// A line of straight parts or of steps. uPlot makes a Path2D for each drawing, whose memory the
// browser gives back so late that a plot which is drawn anew each moment takes hundreds of MB.
function drawLine(plot, at, { stroke, width, isStepped }) {
  const { ctx, bbox, data } = plot;
  const [x, y] = [data[0], data[at]];
  const placeX = placing(plot.scales.x, bbox.left, bbox.left + bbox.width);
  const placeY = placing(plot.scales.y, bbox.top + bbox.height, bbox.top);
  const [first, last] = plot.series[0].idxs;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.beginPath();
  let before = null;
  for (let row = Math.max(0, first - 1); row <= Math.min(x.length - 1, last + 1); row += 1) {
    if (y[row] === undefined) continue; // the line spans it
    if (y[row] === null) {
      before = null;
      continue;
    }
    const [toX, toY] = [placeX(x[row]), placeY(y[row])];
    if (before === null) ctx.moveTo(toX, toY);
    else {
      if (isStepped) ctx.lineTo(toX, before);
      ctx.lineTo(toX, toY);
    }
    before = toY;
  }
  ctx.strokeStyle = stroke;
  ctx.lineWidth = width * devicePixelRatio;
  ctx.lineJoin = "round";
  ctx.stroke();
  ctx.restore();
}

// From a value of a scale to a pixel.
function placing({ min, max }, from, to) {
  const size = (to - from) / (max - min || 1);
  return (value) => from + (value - min) * size;
}

// Two series in a row with `band` are the highest and the lowest values of an area.
function bandsOf(series) {
  const bands = [];
  series.forEach((one, at) => {
    const next = series[at + 1];
    if (one.band && next && next.band === one.band) {
      const base = one.fill ? theme(one.fill) : colour(one.index || 0);
      bands.push({ series: [at + 1, at + 2], fill: translucent(base) });
    }
  });
  return bands;
}

function translucent(base) {
  return /^#[0-9a-f]{6}$/i.test(base) ? `${base}2e` : base;
}

function drawMarks(plot, marks) {
  if (!marks || !marks.length) return;
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = theme("warn");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const mark of marks) {
    const at = plot.valToPos(mark, "x", true);
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
