// Where results of the head go: a vocabulary need not be whole vectors.
fn put(first_row: u32, first: u32, li: u32) {
  let token = first + li % TOKENS;
  let row = first_row + li / TOKENS;
  if (li >= OUTPUTS || row >= shapes[MATRIX].out_rows || token >= num_rows()) { return; }
  logits[token * shapes[MATRIX].y_stride + shapes[MATRIX].y_offset + row] = results[li];
}
