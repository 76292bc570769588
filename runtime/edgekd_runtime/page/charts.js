const SVG = "http://www.w3.org/2000/svg";

function draw(svg, values, slots, format) {
  // The last value stands at the right, and there is room for `slots` of them.
  const width = 100, height = 40, top = Math.max(...values, 1e-9);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const says = values.length
    ? word("chart_says", format(Math.min(...values)), format(top), format(values[values.length - 1])) : word("chart_empty");
  svg.setAttribute("aria-label", says);
  const reached = Math.max(0, ...values);
  svg.parentElement.querySelector(".top").textContent =
    reached ? word("chart_top", format(reached)) : values.length ? "" : word("chart_empty");
  const points = values.map((value, i) =>
    [width * (1 - (values.length - 1 - i) / (slots - 1)), height - 2 - (value / top) * (height - 6)]);
  if (points.length === 1) points.unshift([width * (1 - 1 / (slots - 1)), points[0][1]]);
  const line = points.map((point) => point.map((x) => x.toFixed(2)).join(" ")).join(" L ");
  const shapes = [["base", `M 0 ${height - 1} L ${width} ${height - 1}`]];
  if (points.length) shapes.push(["area", `M ${points[0][0].toFixed(2)} ${height} L ${line} L ${width} ${height} Z`], ["line", `M ${line}`]);
  svg.replaceChildren(...shapes.map(([name, path]) => {
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("class", name);
    made.setAttribute("d", path);
    return made;
  }));
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

function quantile(bounds, counts, share) {
  // Of a histogram: linear inside the bucket that holds it, as Prometheus estimates it.
  const total = counts.reduce((a, b) => a + b, 0);
  let reached = 0;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] && reached + counts[i] >= share * total) {
      const low = i ? bounds[i - 1] : 0, high = i < bounds.length ? bounds[i] : bounds[bounds.length - 1];
      return low + (high - low) * ((share * total - reached) / counts[i]);
    }
    reached += counts[i];
  }
  return null;
}
