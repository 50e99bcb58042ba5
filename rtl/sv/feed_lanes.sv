// Feed lanes: TI values of one token per cycle, from a memory word to the array.  Latency 3, initiation interval 1.
//
// mode 0  pass       a = act
// mode 1  normalise  a = sat8(((res << 4) - mean) * mult rounded >> shift)                 numerics.normalize
// mode 2  exp        p = exp2_p8(row_max - score), 0 from lane `lanes` on; a = p - 128      numerics.exp2_p8
// psum: sum of p over the lanes, 5 cycles after the input.
// No stall, no reset. Cost of a lane: a product of 21 x 17 bits, an exp table of 256 x 16 bits; one adder tree over TI.
module feed_lanes #(
  parameter [31:0] TI = 16, parameter [256*16-1:0] EXP_TABLE = '0
) (
  input  logic               clk,
  input  logic               valid,
  input  logic [1:0]         mode,
  input  logic [8*TI-1:0]    act,
  input  logic [16*TI-1:0]   res,
  input  logic [16*TI-1:0]   score,
  input  logic signed [31:0] mean,
  input  logic [15:0]        mult,
  input  logic [5:0]         shift,
  input  logic signed [15:0] row_max,
  input  logic [6:0]         lanes,
  output logic [8*TI-1:0]    a,
  output logic [31:0]        psum
);
  localparam [31:0] LEAF = TI < 16 ? TI : 16;      // lanes of one adder tree of the first level

  logic [15:0] exp_table [0:255];
  logic signed [7:0]  act_i [0:TI-1];
  logic signed [15:0] res_i [0:TI-1];
  logic signed [15:0] score_i [0:TI-1];
  logic [8*TI-1:0]    word;
  for (genvar g = 0; g < TI; g++) begin : g_lane
    assign act_i[g] = act[8*g +: 8];
    assign res_i[g] = res[16*g +: 16];
    assign score_i[g] = score[16*g +: 16];
  end

  logic               v1, v2, v3, v4;
  logic [1:0]         mode1, mode2, mode3;
  logic [15:0]        mult1;
  logic [5:0]         shift1, shift2;
  logic [6:0]         lanes1, lanes2;
  logic signed [20:0] x1 [0:TI-1];            // pass: value; normalise: x - mean; exp: distance
  logic signed [63:0] x2 [0:TI-1];            // product (normalise)
  logic [15:0]        e2 [0:TI-1];            // table value (exp)
  logic [31:0]        q2 [0:TI-1];            // shift of it, or value (pass)
  logic [31:0]        p3 [0:TI-1];
  logic [31:0]        s4 [0:TI/LEAF-1];
  logic signed [63:0] y;
  logic [5:0]         below;                  // shift - 1: rounding half up is ((x >> (shift - 1)) + 1) >> 1
  logic [31:0]        total;

  initial begin
    for (int unsigned i = 0; i < 256; i++) exp_table[i] = EXP_TABLE[16*i +: 16];
    for (int unsigned i = 0; i < TI; i++) begin
      x1[i] = 0; x2[i] = 0; e2[i] = 0; q2[i] = 0; p3[i] = 0;
    end
    for (int unsigned i = 0; i < TI/LEAF; i++) s4[i] = 0;
    v1 = 0; v2 = 0; v3 = 0; v4 = 0; mode1 = 0; mode2 = 0; mode3 = 0; mult1 = 0; shift1 = 0; shift2 = 0; lanes1 = 0; lanes2 = 0;
    a = 0; psum = 0; word = 0; below = 0; y = 0; total = 0;
  end

  /* verilator lint_off BLKSEQ */
  always_ff @(posedge clk) begin              // last stage first: every stage reads what the one before held
    if (v4) begin
      total = 0;
      for (int unsigned i = 0; i < TI/LEAF; i++) total = total + s4[i];
      psum <= total;
    end
    v4 = v3 && mode3 == 2;
    if (v4)
      for (int unsigned i = 0; i < TI/LEAF; i++) begin
        s4[i] = 0;
        for (int unsigned j = 0; j < LEAF; j++) s4[i] = s4[i] + p3[LEAF*i + j];
      end
    word = a;
    if (v2 && mode2 == 0)
      for (int unsigned i = 0; i < TI; i++) word[8*i +: 8] = q2[i][7:0];
    if (v2 && mode2 == 1) begin
      below = shift2 - 6'd1;
      for (int unsigned i = 0; i < TI; i++) begin
        y = ((x2[i] >>> below) + 1) >>> 1;
        word[8*i +: 8] = y > 127 ? 8'd127 : y < -127 ? 8'h81 : y[7:0];
      end
    end
    if (v2 && mode2 == 2)
      for (int unsigned i = 0; i < TI; i++) begin
        p3[i] = q2[i] > 8 || i >= 32'(lanes2) ? 32'd0 : (32'(e2[i]) + (32'd128 << q2[i])) >> (q2[i] + 8);
        word[8*i +: 8] = p3[i][7:0] ^ 8'h80;
      end
    a <= word;
    v3 = v2;
    mode3 = mode2;
    if (v1 && mode1 == 0) for (int unsigned i = 0; i < TI; i++) q2[i] = 32'(x1[i]);
    if (v1 && mode1 == 1) for (int unsigned i = 0; i < TI; i++) x2[i] = 64'(x1[i]) * 64'({1'b0, mult1});
    if (v1 && mode1 == 2)
      for (int unsigned i = 0; i < TI; i++) begin
        e2[i] = exp_table[x1[i][7:0]];
        q2[i] = 32'(x1[i]) >> 8;
      end
    v2 = v1;
    mode2 = mode1;
    shift2 = shift1;
    lanes2 = lanes1;
    if (valid && mode == 0) for (int unsigned i = 0; i < TI; i++) x1[i] = 21'(act_i[i]);
    if (valid && mode == 1) for (int unsigned i = 0; i < TI; i++) x1[i] = 21'((32'(res_i[i]) <<< 4) - mean);
    if (valid && mode == 2) for (int unsigned i = 0; i < TI; i++) x1[i] = 21'(row_max) - 21'(score_i[i]);
    v1 = valid;
    mode1 = mode;
    mult1 = mult;
    shift1 = shift;
    lanes1 = lanes;
  end
  /* verilator lint_on BLKSEQ */
endmodule
