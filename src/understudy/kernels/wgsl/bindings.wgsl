// What every kernel of a pass may see, so that a layer's dispatches share one bind group.
struct Shape {  // what a multiplication is told about its matrix; places are in vectors of 4 words
  cols: u32,
  groups: u32,  // of 32 values in a row
  out_rows: u32,
  output: u32,  // 0 is stored, 1 squared ReLUs are stored, 2 is added
  x_at: u32,  // in `work`
  x_vectors: u32,  // of 4 floats from a row of x to the next
  y_at: u32,  // in `work`, unless y is the logits
  y_stride: u32,  // floats
  y_offset: u32,  // floats
  wants_logits: u32,  // only rows of x whose logits are wanted
  levels_at: u32,  // in `stored`
  scales_at: u32,
  norm_at: u32,  // gain and bias, zero past the last column; 0 for no norm
  eps: f32,
  unused_a: u32,
  unused_b: u32,
}
@group(0) @binding(0) var<storage, read> stored: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> stored_words: array<u32>;  // the same
@group(0) @binding(2) var<uniform> shapes: array<Shape, 8>;  // their beginning
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> work: array<vec4<f32>>;  // activations of all kinds, side by side
@group(0) @binding(5) var<storage, read> pass_: array<u32>;
@group(0) @binding(6) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> logits: array<f32>;
