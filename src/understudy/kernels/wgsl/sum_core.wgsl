fn share(lane: u32, output: u32, value: f32) { shares[lane * OUTPUTS + output] = value; }

fn total_of(output: u32) -> f32 {
  var sum = shares[output];
  for (var i = 1u; i < 32u; i++) { sum += shares[i * OUTPUTS + output]; }
  return sum;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) place: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  run(place, count.x, li);
}
