// One workgroup a token and head. The first N heads are queries: turned and scaled in place. The next K are KV heads:
// the key is turned, and key and value go to the token's place of the cache.
//
// A block of 32 tokens holds for each KV head SIDE words of keys, [word][token], SIDE words of values, [token][word],
// and in an 8-bit cache 32 words of scales: the upper halves of floats, the key's below, the value's above.
fn qkv(i: u32) -> f32 { return work[QKV_AT + i / 4u][i % 4u]; }

fn turned(base: u32, d: u32, position: u32) -> f32 {
  let v = qkv(base + d);
  if (d >= 2u * HALF) { return v; }
  let turn = turns[position * HALF + d % HALF];
  if (d < HALF) { return fma(v, turn.x, -(qkv(base + d + HALF) * turn.y)); }
  return fma(v, turn.x, qkv(base + d - HALF) * turn.y);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let token = place.x;
  let head = place.y;
  let position = pass_[POSITIONS_AT + token];
  let base = token * QKV_STRIDE * 4u + head * H;
  let d = lane * 4u;
  var first = vec4<f32>(0.0);
  if (d < H) {
    first = vec4<f32>(
      turned(base, d, position), turned(base, d + 1u, position), turned(base, d + 2u, position),
      turned(base, d + 3u, position));
  }
  storageBarrier();
  if (head < N) {
    if (d < H) { work[QKV_AT + (base + d) / 4u] = first * SCORE_SCALE; }
    return;
  }
  var second = vec4<f32>(0.0);
  if (d < H) {
    second = work[QKV_AT + (base + K * H + d) / 4u];
  }
  let block = pass_[pass_[TABLES_AT + token] + position / 32u];
  write(first, second, (block * K + head - N) * HEAD_WORDS, position % 32u, lane);
}
