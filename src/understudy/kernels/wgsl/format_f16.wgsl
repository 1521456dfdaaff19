// 32 values of a row: 4 vectors of pairs.

fn load_group(row: u32, group: u32) -> array<vec4<f32>, 8> {
  let at = shape.levels_at + (row * shape.groups + group) * 4u;
  var w: array<vec4<f32>, 8>;
  for (var j = 0u; j < 4u; j++) {
    let v = stored[at + j];
    w[2u * j] = vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
    w[2u * j + 1u] = vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w));
  }
  return w;
}
