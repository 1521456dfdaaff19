// y[t, r] = sum over c of w[r, c] * prepared(x)[t, c], where x is rounded to 8 bits in groups of 256, as the CPU's
// kernels do: scale = max|x| / 127, halves to even. Work is shared as in matmul.wgsl; products are exact integers.
var<workgroup> staged: array<vec4<u32>, 64u * TOKENS>;
var<workgroup> peaks: array<f32, 32u * TOKENS>;
var<workgroup> factors: array<f32, 32u * TOKENS>;
var<workgroup> totals: array<i32, 32u * TOKENS>;

fn stage(li: u32, chunk: u32, first: u32) {
  let lane = li & 31u;
  let at = (chunk * 32u + lane) * 8u;
  for (var t = li >> 5u; t < TOKENS; t += 2u) {
    var peak = 0.0;
    for (var j = at; j < min(at + 8u, shape.x_vectors); j++) {
      let size = abs(prepared(t, source_row(first + t), j));
      peak = max(peak, max(max(size.x, size.y), max(size.z, size.w)));
    }
    peaks[t * 32u + lane] = peak;
  }
  workgroupBarrier();
  for (var t = li >> 5u; t < TOKENS; t += 2u) {
    var block = 0.0;
    for (var i = 0u; i < 8u; i++) { block = max(block, peaks[t * 32u + (lane & 24u) + i]); }
    var inverse = 0.0;
    if (block > 0.0) { inverse = 127.0 / block; }
    var words = array<u32, 8>();
    var sum = 0;
    for (var j = 0u; j < 8u; j++) {
      if (at + j < shape.x_vectors) {
        words[j] = pack4xI8(vec4<i32>(round(prepared(t, source_row(first + t), at + j) * inverse)));
        sum += dot4I8Packed(words[j], 0x01010101u);
      }
    }
    staged[t * 64u + lane] = vec4<u32>(words[0], words[1], words[2], words[3]);
    staged[t * 64u + 32u + lane] = vec4<u32>(words[4], words[5], words[6], words[7]);
    factors[t * 32u + lane] = block / 127.0;
    totals[t * 32u + lane] = sum;
  }
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> f32 {
  return f32(dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w));
}

fn multiply(row: u32, group: u32, lane: u32) -> array<f32, TOKENS> {
  let w = load_levels(row, group);
  let steps = load_steps(row, group);
  var sums = array<f32, TOKENS>();
  for (var t = 0u; t < TOKENS; t++) {
    let first = dot16(w[0], staged[t * 64u + lane]);
    let second = dot16(w[1], staged[t * 64u + 32u + lane]);
    let sum = fma(steps.x, first, fma(steps.y, second, steps.z * f32(totals[t * 32u + lane])));
    sums[t] = sum * factors[t * 32u + lane];
  }
  return sums;
}
