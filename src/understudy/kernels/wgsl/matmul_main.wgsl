// Which matrix of the store it is, the number of workgroups in x tells: its last three bits. So the multiplications of a
// layer share one program and one bind group. Workgroups that are there for that alone have nothing to do.
var<private> shape: Shape;

const TILE = 2u * ROWS;
const OUTPUTS = TILE * TOKENS;

var<workgroup> shares: array<f32, 32u * OUTPUTS>;
var<workgroup> results: array<f32, OUTPUTS>;

fn put(first_row: u32, first: u32, li: u32) {
  if (shape.wants_logits != 0u) {  // a vocabulary need not be whole vectors
    let token = first + li % TOKENS;
    let row = first_row + li / TOKENS;
    if (li >= OUTPUTS || row >= shape.out_rows || token >= num_rows()) { return; }
    logits[token * shape.y_stride + shape.y_offset + row] = results[li];
    return;
  }
  let t = li % TOKENS;  // four rows of a token at a time
  let quad = li / TOKENS;
  let token = first + t;
  let row = first_row + quad * 4u;
  if (quad >= TILE / 4u || row >= shape.out_rows || token >= num_rows()) { return; }
  let from_ = quad * 4u * TOKENS + t;
  let value = vec4<f32>(
    results[from_], results[from_ + TOKENS], results[from_ + 2u * TOKENS], results[from_ + 3u * TOKENS]);
  let at = shape.y_at + (token * shape.y_stride + shape.y_offset + row) / 4u;
  if (shape.output == 1u) {
    let positive = max(value, vec4<f32>(0.0));
    work[at] = positive * positive;
  } else if (shape.output == 2u) {
    work[at] += value;
  } else {
    work[at] = value;
  }
}

fn run(place: vec3<u32>, num_row_tiles: u32, li: u32) {
  shape = shapes[num_row_tiles & 7u];
  if (place.x * TILE >= shape.out_rows) { return; }
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
  if (li < OUTPUTS) { results[li] = total_of(li); }
  workgroupBarrier();
  put(place.x * TILE, first, li);
}
