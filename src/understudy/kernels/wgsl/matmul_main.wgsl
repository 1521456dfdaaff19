const TILE = 2u * ROWS;
const OUTPUTS = TILE * TOKENS;

var<workgroup> shares: array<f32, 32u * OUTPUTS>;
var<workgroup> results: array<f32, OUTPUTS>;

fn run(place: vec3<u32>, li: u32) {
  let lane = li & 31u;
  let team = li >> 5u;
  let row = place.x * TILE + team * ROWS;
  let first = place.y * TOKENS;
  var sums = array<f32, ROWS * TOKENS>();
  begin(li, first);
  for (var chunk = 0u; chunk * 32u < shapes[MATRIX].groups; chunk++) {
    stage(li, chunk, first);
    workgroupBarrier();
    let group = chunk * 32u + lane;
    if (group < shapes[MATRIX].groups) {
      for (var r = 0u; r < min(ROWS, shapes[MATRIX].out_rows - min(row, shapes[MATRIX].out_rows)); r++) {
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
