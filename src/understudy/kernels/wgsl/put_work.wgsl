// Where results go: four rows of a token at a time.
fn put(first_row: u32, first: u32, li: u32) {
  let t = li % TOKENS;
  let quad = li / TOKENS;
  let token = first + t;
  let row = first_row + quad * 4u;
  if (quad >= TILE / 4u || row >= shapes[MATRIX].out_rows || token >= num_rows()) { return; }
  let from_ = quad * 4u * TOKENS + t;
  let value = vec4<f32>(
    results[from_], results[from_ + TOKENS], results[from_ + 2u * TOKENS], results[from_ + 3u * TOKENS]);
  let at = shapes[MATRIX].y_at + (token * shapes[MATRIX].y_stride + shapes[MATRIX].y_offset + row) / 4u;
  if (shapes[MATRIX].output == 1u) {
    let positive = max(value, vec4<f32>(0.0));
    work[at] = positive * positive;
  } else if (shapes[MATRIX].output == 2u) {
    work[at] += value;
  } else {
    work[at] = value;
  }
}
