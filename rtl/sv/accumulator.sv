// Accumulators: one word of TO x 32 bits per token, read - add - write, one token per cycle.
//
// valid, addr   token of `sum`; high: it counts 256 times; first: start from 0; last: the total leaves on `acc` instead of being stored
// acc, acc_valid   two cycles after sum. The same address may come again after two cycles.
// Initiation interval 1, no stall, no reset. Cost: TO adders of 32 bits, a memory of DEPTH x 32 TO bits, one read and one write port.
module accumulator #(
  parameter [31:0] TO = 16, parameter [31:0] DEPTH = 256, parameter [31:0] AW = $clog2(DEPTH)
) (
  input  logic             clk,
  input  logic             valid,
  input  logic             high,
  input  logic             first,
  input  logic             last,
  input  logic [AW-1:0]    addr,
  input  logic [32*TO-1:0] sum,
  output logic             acc_valid,
  output logic [32*TO-1:0] acc
);
  logic [32*TO-1:0] mem [0:DEPTH-1];
  logic [32*TO-1:0] old, sum_q, next;
  logic [AW-1:0]    addr_q;
  logic             valid_q, high_q, first_q, last_q;

  initial begin
    for (int unsigned i = 0; i < DEPTH; i++) mem[i] = 0;
    valid_q = 0; high_q = 0; first_q = 0; last_q = 0; addr_q = 0; sum_q = 0; old = 0; acc = 0; acc_valid = 0;
  end

  for (genvar g = 0; g < TO; g++) begin : g_lane
    assign next[32*g +: 32] = (high_q ? {sum_q[32*g +: 24], 8'd0} : sum_q[32*g +: 32]) + (first_q ? 32'd0 : old[32*g +: 32]);
  end

  always @(posedge clk) begin
    valid_q <= valid;
    acc_valid <= valid_q & last_q;
    if (valid) begin
      old <= mem[addr];
      sum_q <= sum;
      addr_q <= addr;
      high_q <= high;
      first_q <= first;
      last_q <= last;
    end
    if (valid_q & ~last_q) mem[addr_q] <= next;
    if (valid_q & last_q) acc <= next;
  end
endmodule
