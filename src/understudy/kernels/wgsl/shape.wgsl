// What a multiplication is told about its matrix.
struct Shape {
  cols: u32,
  groups: u32,  // of 32 values in a row
  out_rows: u32,
  x_vectors: u32,  // of 4 floats from a row of x to the next
  y_stride: u32,
  y_offset: u32,
  has_norm: u32,
  output: u32,  // 0 is stored, 1 squared ReLUs are stored, 2 is added
  wants_logits: u32,  // only rows of x whose logits are wanted
  eps: f32,
  unused_a: u32,
  unused_b: u32,
}
@group(0) @binding(6) var<uniform> shape: Shape;
