// Drain lanes: TO accumulators of one token per cycle -> bias, requantize, activation or router score, residual add.
// Initiation interval 1, no stall, no reset. Arithmetic: numerics.requantize, activation, weigh.
// Cost of a lane: four products (32 x 17, 22 x 17, 17 x 7, 18 x 18 bits), a delta table, BANKS x 54 bits of parameters;
// adder trees over TO.
//
// cycle 0   acc, control           a = acc + bias
// cycle 2   out_*                  a, or with `mean` the sum of a over the tokens (valid with the last one)
// cycle 7   old                    residual word to add to (read by the control outside)
// cycle 8   word8, word16          result (int8 / int16); with `residual` sat16(old + y); with `fresh` y alone
// cycle 9   d_sum, d_squares       change of the token's sum and sum of squares over lanes < lanes;  lane_max
//
// Column parameters arrive through load_*: VB/8 columns per vector of VB bytes, 64 bits each: bias[31:0], mult[47:32], shift[53:48].
module drain_lanes #(
  parameter [31:0] VB = 16, parameter [31:0] TO = 16, parameter [31:0] BANKS = 4,
  parameter [31:0] ENTRIES = 256, parameter [16*ENTRIES-1:0] DELTA_TABLE = '0,
  parameter [31:0] BW = $clog2(BANKS)
) (
  input  logic               clk,
  input  logic               load_en,
  input  logic [BW-1:0]      load_bank,
  input  logic [6:0]         load_index,
  input  logic [8*VB-1:0]    load_data,
  input  logic               valid,
  input  logic [32*TO-1:0]   acc,
  input  logic [BW-1:0]      bank,
  input  logic               column_params,   // else mult, shift and no bias
  input  logic [15:0]        mult,
  input  logic [5:0]         shift,
  input  logic               to16,
  input  logic               stream,          // take `data` as the requantized value
  input  logic [16*TO-1:0]   data,
  input  logic               act,
  input  logic               second,          // multiply by mult2 / 2**shift2 (activation scale or router score)
  input  logic [15:0]        mult2,
  input  logic [5:0]         shift2,
  input  logic               residual,
  input  logic               fresh,
  input  logic [6:0]         lanes,
  input  logic               out,             // int32 output wanted
  input  logic               mean,
  input  logic               first_token,
  input  logic               last_token,
  output logic               out_valid,
  output logic [32*TO-1:0]   out_word,
  input  logic [16*TO-1:0]   old,
  output logic               valid8,
  output logic [8*TO-1:0]    word8,
  output logic [16*TO-1:0]   word16,
  output logic signed [31:0] d_sum,
  output logic signed [47:0] d_squares,
  output logic signed [15:0] lane_max
);
  localparam [31:0] INDEX_BITS = $clog2(ENTRIES);
  localparam [31:0] PER_VECTOR = VB / 8;

  typedef struct packed {
    logic valid, to16, stream, act, second, residual, fresh;
    logic [15:0] mult2;
    logic [5:0] shift2;
    logic [6:0] lanes;
  } control_t;

  logic [15:0]        delta_table [0:ENTRIES];
  logic signed [31:0] bias_p  [0:BANKS-1][0:TO-1];
  logic [15:0]        mult_p  [0:BANKS-1][0:TO-1];
  logic [5:0]         shift_p [0:BANKS-1][0:TO-1];
  logic [63:0]        param   [0:PER_VECTOR-1];
  logic signed [31:0] acc_i   [0:TO-1];
  logic signed [15:0] data_i  [0:TO-1];
  logic signed [15:0] data_1  [0:TO-1];
  logic signed [15:0] data_2  [0:TO-1];
  logic signed [15:0] old_i   [0:TO-1];
  logic signed [31:0] a1      [0:TO-1];
  logic [15:0]        m1      [0:TO-1];
  logic [5:0]         s1      [0:TO-1];
  logic [5:0]         s2      [0:TO-1];
  logic signed [63:0] x2      [0:TO-1];
  logic signed [31:0] r3      [0:TO-1];
  logic signed [31:0] r4      [0:TO-1];
  logic signed [31:0] low4    [0:TO-1];
  logic signed [16:0] step4   [0:TO-1];       // operands of products are as narrow as their values: one multiplier each
  logic signed [6:0]  frac4   [0:TO-1];
  logic signed [21:0] g5      [0:TO-1];
  logic signed [63:0] x6      [0:TO-1];
  logic signed [31:0] y7      [0:TO-1];
  logic signed [31:0] n8      [0:TO-1];
  logic signed [31:0] o8      [0:TO-1];
  logic signed [31:0] sum1    [0:TO-1];
  control_t           c1, c2, c3, c4, c5, c6, c7, c8;
  logic               out1, mean1, first1, last1;
  logic [8*TO-1:0]    next8;
  logic [16*TO-1:0]   next16;
  logic [32*TO-1:0]   next_out;
  logic signed [63:0] limit, y;
  logic [5:0]         below;                   // shift - 1: rounding half up is ((x >> (shift - 1)) + 1) >> 1
  logic signed [31:0] w, total;
  logic signed [47:0] squares;
  logic signed [17:0] change, both;
  logic [31:0]        index;

  for (genvar g = 0; g < TO; g++) begin : g_lane
    assign acc_i[g] = acc[32*g +: 32];
    assign data_i[g] = data[16*g +: 16];
    assign old_i[g] = old[16*g +: 16];
  end
  for (genvar g = 0; g < PER_VECTOR; g++) begin : g_param
    assign param[g] = load_data[64*g +: 64];
  end
  logic unused;
  assign unused = &{1'b0, c1, c2, c3, c4, c5, c6, c7, c8};

  initial begin
    for (int unsigned i = 0; i < ENTRIES; i++) delta_table[i] = DELTA_TABLE[16*i +: 16];
    delta_table[ENTRIES] = 0;
    for (int unsigned b = 0; b < BANKS; b++)
      for (int unsigned j = 0; j < TO; j++) begin
        bias_p[b][j] = 0; mult_p[b][j] = 0; shift_p[b][j] = 0;
      end
    for (int unsigned j = 0; j < TO; j++) begin
      data_1[j] = 0; data_2[j] = 0; a1[j] = 0; m1[j] = 0; s1[j] = 0; s2[j] = 0; x2[j] = 0; r3[j] = 0; r4[j] = 0; low4[j] = 0;
      step4[j] = 0; frac4[j] = 0; g5[j] = 0; x6[j] = 0; y7[j] = 0; n8[j] = 0; o8[j] = 0; sum1[j] = 0;
    end
    c1 = '0; c2 = '0; c3 = '0; c4 = '0; c5 = '0; c6 = '0; c7 = '0; c8 = '0;
    out1 = 0; mean1 = 0; first1 = 0; last1 = 0; out_valid = 0; d_sum = 0; d_squares = 0; lane_max = 0;
    valid8 = 0; word8 = 0; word16 = 0; out_word = 0; next8 = 0; next16 = 0; next_out = 0;
    below = 0; y = 0; limit = 0; w = 0; total = 0; squares = 0; change = 0; both = 0; index = 0;
  end

  /* verilator lint_off BLKSEQ */
  always_ff @(posedge clk) begin               // last stage first
    if (c8.valid) begin
      total = 0; squares = 0; w = -32768;
      for (int unsigned j = 0; j < TO; j++)
        if (j < 32'(c8.lanes)) begin
          total = total + (n8[j] - o8[j]);
          change = 18'(n8[j] - o8[j]);
          both = 18'(n8[j] + o8[j]);
          squares = squares + 48'(change) * 48'(both);
          w = n8[j] > w ? n8[j] : w;
        end
      d_sum <= total; d_squares <= squares; lane_max <= w[15:0];
    end
    valid8 <= c7.valid;
    if (c7.valid) begin
      for (int unsigned j = 0; j < TO; j++) begin
        o8[j] = c7.residual && !c7.fresh ? 32'(old_i[j]) : 32'sd0;
        w = o8[j] + y7[j];
        n8[j] = w > 32767 ? 32'sd32767 : w < -32767 ? -32'sd32767 : w;
        next8[8*j +: 8] = y7[j][7:0];
        next16[16*j +: 16] = n8[j][15:0];
      end
      word8 <= next8;
      word16 <= next16;
    end
    if (c6.valid)
      if (c6.second) begin
        below = c6.shift2 - 6'd1;
        limit = c6.act ? 127 : 32767;
        for (int unsigned j = 0; j < TO; j++) begin
          y = ((x6[j] >>> below) + 1) >>> 1;
          y7[j] = 32'(y > limit ? limit : y < -limit ? -limit : y);
        end
      end else for (int unsigned j = 0; j < TO; j++) y7[j] = x6[j][31:0];
    if (c5.valid)
      if (c5.second) for (int unsigned j = 0; j < TO; j++) x6[j] = 64'(g5[j]) * 64'({1'b0, c5.mult2});
      else for (int unsigned j = 0; j < TO; j++) x6[j] = 64'(g5[j]);
    if (c4.valid)
      if (c4.act)
        for (int unsigned j = 0; j < TO; j++)
          g5[j] = 22'(((r4[j] < 0 ? 32'sd0 : r4[j]) <<< 5) - low4[j] - ((32'(step4[j]) * 32'(frac4[j]) + 32) >>> 6));
      else for (int unsigned j = 0; j < TO; j++) g5[j] = 22'(r4[j]);
    if (c3.valid) begin
      for (int unsigned j = 0; j < TO; j++) r4[j] = r3[j];
      if (c3.act)
        for (int unsigned j = 0; j < TO; j++) begin
          index = r3[j] < 0 ? -r3[j] : r3[j];
          frac4[j] = {1'b0, index[5:0]};
          index = index >> 6;
          if (index < ENTRIES) begin
            low4[j] = 32'(delta_table[index[INDEX_BITS:0]]);
            step4[j] = 17'(32'(delta_table[index[INDEX_BITS:0] + 1'b1]) - low4[j]);
          end else begin
            low4[j] = 0;
            step4[j] = 0;
          end
        end
    end
    if (c2.valid)
      if (c2.stream) for (int unsigned j = 0; j < TO; j++) r3[j] = 32'(data_2[j]);
      else begin
        limit = c2.to16 ? 32767 : 127;
        for (int unsigned j = 0; j < TO; j++) begin
          below = s2[j] - 6'd1;
          y = ((x2[j] >>> below) + 1) >>> 1;
          r3[j] = 32'(y > limit ? limit : y < -limit ? -limit : y);
        end
      end
    if (c1.valid) begin
      for (int unsigned j = 0; j < TO; j++) begin
        x2[j] = 64'(a1[j]) * 64'({1'b0, m1[j]});
        s2[j] = s1[j];
      end
      if (c1.stream) for (int unsigned j = 0; j < TO; j++) data_2[j] = data_1[j];
    end
    out_valid <= c1.valid && out1 && (last1 || !mean1);
    if (c1.valid && out1) begin
      for (int unsigned j = 0; j < TO; j++) begin
        sum1[j] = (mean1 && !first1 ? sum1[j] : 32'sd0) + a1[j];
        next_out[32*j +: 32] = sum1[j];
      end
      out_word <= next_out;
    end
    c8 = c7; c7 = c6; c6 = c5; c5 = c4; c4 = c3; c3 = c2; c2 = c1;
    if (valid) begin
      if (column_params)
        for (int unsigned j = 0; j < TO; j++) begin
          a1[j] = acc_i[j] + bias_p[bank][j];
          m1[j] = mult_p[bank][j];
          s1[j] = shift_p[bank][j];
        end
      else
        for (int unsigned j = 0; j < TO; j++) begin
          a1[j] = acc_i[j];
          m1[j] = mult;
          s1[j] = shift;
        end
      if (stream) for (int unsigned j = 0; j < TO; j++) data_1[j] = data_i[j];
    end
    c1.valid = valid; c1.to16 = to16; c1.stream = stream; c1.act = act; c1.second = second; c1.residual = residual;
    c1.fresh = fresh; c1.mult2 = mult2; c1.shift2 = shift2; c1.lanes = lanes;
    out1 = out; mean1 = mean; first1 = first_token; last1 = last_token;
    if (load_en)
      for (int unsigned i = 0; i < PER_VECTOR; i++)
        if (32'(load_index) * PER_VECTOR + i < TO) begin
          bias_p[load_bank][32'(load_index) * PER_VECTOR + i] = param[i][31:0];
          mult_p[load_bank][32'(load_index) * PER_VECTOR + i] = param[i][47:32];
          shift_p[load_bank][32'(load_index) * PER_VECTOR + i] = param[i][53:48];
        end
  end
  /* verilator lint_on BLKSEQ */
endmodule
