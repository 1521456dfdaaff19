// Rows of x on their way in: as they are, or through LayerNorm1P: (x - mean) / sqrt(variance + eps) * gain + bias.
var<workgroup> parts: array<vec4<f32>, 64>;
var<workgroup> eighths: array<vec4<f32>, 8>;
var<private> mean: vec4<f32>;
var<private> inverse: vec4<f32>;

fn x_at(row: u32, i: u32) -> vec4<f32> { return work[shape.x_at + row * shape.x_vectors + i]; }

fn norm_at(i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(stored[shape.norm_at + i]); }

fn num_rows() -> u32 { return select(pass_[0], pass_[2], shape.wants_logits != 0u); }

fn source_row(row: u32) -> u32 {
  let last = min(row, num_rows() - 1u);
  if (shape.wants_logits != 0u) { return pass_[WANTED_AT + last]; }
  return last;
}

fn total(li: u32, part: vec4<f32>) -> vec4<f32> {
  parts[li] = part;
  workgroupBarrier();
  if (li < 8u) {
    var sum = parts[li * 8u];
    for (var i = 1u; i < 8u; i++) { sum += parts[li * 8u + i]; }
    eighths[li] = sum;
  }
  workgroupBarrier();
  var sum = eighths[0];
  for (var i = 1u; i < 8u; i++) { sum += eighths[i]; }
  workgroupBarrier();
  return sum;
}

fn begin(li: u32, first: u32) {
  if (shape.norm_at == 0u) { return; }
  var sum = vec4<f32>(0.0);
  for (var i = li; i < shape.x_vectors; i += 64u) {
    for (var t = 0u; t < TOKENS; t++) { sum[t] += dot(x_at(source_row(first + t), i), vec4<f32>(1.0)); }
  }
  mean = total(li, sum) / f32(shape.cols);
  sum = vec4<f32>(0.0);
  for (var i = li; i < shape.x_vectors; i += 64u) {
    let is_real = (vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u)) < vec4<u32>(shape.cols);
    for (var t = 0u; t < TOKENS; t++) {
      let centred = select(vec4<f32>(0.0), x_at(source_row(first + t), i) - mean[t], is_real);
      sum[t] += dot(centred, centred);
    }
  }
  inverse = 1.0 / sqrt(total(li, sum) / f32(shape.cols) + shape.eps);
}

fn prepared(t: u32, row: u32, at: u32) -> vec4<f32> {
  let value = x_at(row, at);
  if (shape.norm_at == 0u) { return value; }
  let centred = value - mean[t];
  return fma(centred, norm_at(at) * inverse[t], norm_at(shape.x_vectors + at));
}
