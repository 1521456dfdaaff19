@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const TILE = 2u * ROWS;
const OUTPUTS = TILE * TOKENS;

var<workgroup> shares: array<f32, 32u * OUTPUTS>;

fn put(at: u32, value: f32) {
  if (shape.output == 1u) {
    let positive = max(value, 0.0);
    y[at] = positive * positive;
  } else if (shape.output == 2u) {
    y[at] += value;
  } else {
    y[at] = value;
  }
}

fn run(place: vec3<u32>, li: u32) {
  let lane = li & 31u;
  let team = li >> 5u;
  let row = place.x * TILE + team * ROWS;
  let first = place.y * TOKENS;
  var sums = array<f32, ROWS * TOKENS>();
  begin(li, first);
  for (var chunk = 0u; chunk * 32u < shape.groups; chunk++) {
    stage(li, chunk, first);
    workgroupBarrier();
    let group = chunk * 32u + lane;
    if (group < shape.groups) {
      for (var r = 0u; r < min(ROWS, shape.out_rows - min(row, shape.out_rows)); r++) {
        let more = multiply(row + r, group, lane);
        for (var t = 0u; t < TOKENS; t++) { sums[r * TOKENS + t] += more[t]; }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < ROWS * TOKENS; i++) { share(lane, team * ROWS * TOKENS + i, sums[i]); }
  workgroupBarrier();
  if (li < OUTPUTS) {
    let out_row = place.x * TILE + li / TOKENS;
    let token = first + li % TOKENS;
    if (out_row < shape.out_rows && token < num_rows()) {
      put(token * shape.y_stride + shape.y_offset + out_row, total_of(li));
    }
  }
}
