// Delay line: q is d as it was N cycles ago (N >= 1). Maps to shift registers (SRL) on an FPGA.
// Latency N, initiation interval 1. Cost: W * ceil(N / 32) SRL LUTs and W flip-flops.
module delay #(parameter [31:0] W = 8, parameter [31:0] N = 1) (
  input  logic         clk,
  input  logic         rst,      // clears the line
  input  logic [W-1:0] d,                  // what comes in
  output logic [W-1:0] q         // d of N cycles before
);
  logic [W-1:0] line [0:N-1];            // the last one is q itself
  initial begin
    for (int unsigned i = 0; i < N; i++) line[i] = 0;
    q = 0;
  end
  /* verilator lint_off BLKSEQ */
  always @(posedge clk)
    if (rst) begin
      for (int unsigned i = 0; i < N; i++) line[i] = 0;
      q <= 0;
    end else begin
      for (int unsigned i = N-1; i > 0; i--) line[i] = line[i-1];
      line[0] = d;
      q <= line[N-1];
    end
  /* verilator lint_on BLKSEQ */
endmodule
