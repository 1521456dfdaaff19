const SIDE = 32u * (H / 2u);
const HEAD_WORDS = 2u * SIDE;

fn write(key: vec4<f32>, value: vec4<f32>, place: u32, token: u32, lane: u32) {
  if (lane >= H / 4u) { return; }
  let at = place + 2u * lane * 32u + token;
  cache[at] = pack2x16float(key.xy);
  cache[at + 32u] = pack2x16float(key.zw);
  let to = place + SIDE + token * (H / 2u) + 2u * lane;
  cache[to] = pack2x16float(value.xy);
  cache[to + 1u] = pack2x16float(value.zw);
}
