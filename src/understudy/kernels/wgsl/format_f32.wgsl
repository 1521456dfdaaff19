// 32 values of a row: 8 vectors of bit patterns; rows are padded with zeros to whole groups.
@group(0) @binding(0) var<storage, read> levels: array<vec4<u32>>;

fn load_group(row: u32, group: u32) -> array<vec4<f32>, 8> {
  let at = (row * shape.groups + group) * 8u;
  var w: array<vec4<f32>, 8>;
  for (var j = 0u; j < 8u; j++) { w[j] = bitcast<vec4<f32>>(levels[at + j]); }
  return w;
}
