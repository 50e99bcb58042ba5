// Drain lanes: TO accumulators of one token per cycle -> bias, requantize, activation or router score, residual add.
// Initiation interval 1, no stall, no reset. Arithmetic: numerics.requantize, activation, weigh.
//
// cycle 0   acc, control           a = acc + bias
// cycle 2   out_*                  a, or with `mean` the sum of a over the tokens (valid with the last one)
// cycle 3   other                  word of the operand
// cycle 7   old                    residual word to add to (read by the control outside)
// cycle 8   word8, word16          result (int8 / int16); with WIDE and plane 1 or 2 word8 is the high or low half of
//                                  int16 (numerics.planes); with `residual` sat16(old + y); with `fresh` y alone
// cycle 9   d_sum, d_squares       change of the token's sum and sum of squares over lanes < lanes
//
// Column parameters arrive through load_*: VB/8 columns per vector of VB bytes, 64 bits each: bias[31:0], mult[47:32], shift[53:48], code[63:54]
// of a second multiplier, (64 + code[5:0]) << (9 - code[9:6]) with code[9:6] up to 9 (numerics.short_multiplier). It is needed four cycles
// later than the rest, so it is also written four cycles later. With `through` code[9] says whether the complement is taken.
//
// Cost of a lane: four products in five DSP slices (32 x 24 bits: two; 18 x 18, 25 x 18, 17 x 17), a block RAM of 36 kbit for every two
// lanes, BANKS x 74 bits of distributed RAM (FINE = 1: 70), two shifters with saturation, six adders of 16 to 32 bits; trees over TO.
//   Requantize: the multiplier is shifted left by 7 - (shift - 1) % 8 where it is loaded, so that a lane shifts by whole bytes. FINE = 1
//   takes one bit of the shift instead of three, for multipliers of 18 x 18 bits: the product of 32 x 18 bits is two of them.
//   Activation: x, with `frac` fraction bits, is brought to 12. f is linear between knots 128 such units apart. x = 128 i + k, i signed:
//   f = (128 F(i) + k * slope(i) + 63) >> 7, computed as (256 F(i) + 2 k * slope(i) + 127) >> 8; beyond the knots, |x| >= 16.0,
//   (256 offset + slope * (x >> 4) + 127) >> 8 with the numbers of that end (numerics.Knots). `which` chooses among FUNCTIONS.
//   Operand (OPERAND = 1): with `operand` 1 lanes of `other` are the multipliers of the second product, with act or without; with 2 they are
//   added where the residual is. OPERAND = 3 can also turn pairs of lanes, with `operand` 3: x[2j] c - x[2j+1] s, x[2j+1] c + x[2j] s with c and
//   s in lanes 2j and 2j+1 of `other`, and an even shift2; one product more a lane. The sum is shifted and saturated as a product of 1.
//   Second product: the multiplier is shifted left by one bit where shift2 is odd, as it is with that of a column; a constant in the
//   product's sum rounds.
module drain_lanes #(
  parameter [31:0] VB = 16, parameter [31:0] TO = 16, parameter [31:0] BANKS = 4,
  parameter [31:0] FUNCTIONS = 1,                      // at most 4: F(-512) .. F(512) of each, 22 bits, the first one lowest
  parameter [22*1025-1:0] KNOTS_0 = 22550'd0, parameter [22*1025-1:0] KNOTS_1 = 22550'd0,
  parameter [22*1025-1:0] KNOTS_2 = 22550'd0, parameter [22*1025-1:0] KNOTS_3 = 22550'd0,
  parameter [78*FUNCTIONS-1:0] ENDS = '0,              // offset[38:18], slope[17:0]; left, then right
  parameter [31:0] FINE = 3, parameter [31:0] WIDE = 0, parameter [31:0] OPERAND = 0, parameter [31:0] BYPASS = 0, parameter [31:0] BW = $clog2(BANKS), parameter [31:0] FW = FUNCTIONS > 1 ? $clog2(FUNCTIONS) : 1
) (
  input  logic               clk,
  input  logic               load_en,       // a vector of column parameters is written
  input  logic [BW-1:0]      load_bank,     // which of the BANKS
  input  logic [6:0]         load_index,    // the vector of the bank
  input  logic [8*VB-1:0]    load_data,    // parameters of VB/8 columns
  input  logic               valid,         // acc is a token's
  input  logic [32*TO-1:0]   acc,
  input  logic [BW-1:0]      bank,          // parameters of the columns, of those that were loaded
  input  logic               column_params,   // else mult, shift and no bias
  input  logic [15:0]        mult,         // without column_params: multiplier of the requantization
  input  logic [5:0]         shift,           // 1..47
  input  logic               to16,          // requantize to 16 bits, not 8
  input  logic               stream,          // take `data` as the requantized value
  input  logic [16*TO-1:0]   data,          // words that do not come from the accumulators
  input  logic               through,         // with column_params and BYPASS: take `data` as the accumulators, the complement where the column says so
  input  logic               act,             // with to16 and second
  input  logic [FW-1:0]      which,           // function of act
  input  logic [1:0]         frac,            // fraction bits of its argument: 8, 10, 12, 7
  input  logic               second,          // multiply by mult2 / 2**shift2 (activation scale or router score)
  input  logic [15:0]        mult2,        // multiplier of the second product
  input  logic [5:0]         shift2,          // 1..47; without act 16
  input  logic               act_columns,     // with act, column_params and an odd shift2: instead of mult2 that of the column
  input  logic [1:0]         plane,           // with to16; then act gives 16 bits
  input  logic [1:0]         operand,         // with to16: 1 multiply, 2 add, 3 rotate
  input  logic [16*TO-1:0]   other,
  input  logic               residual,     // the result is added to the residual word
  input  logic               fresh,        // with residual: to 0 instead of that word
  input  logic [6:0]         lanes,        // lanes that count in the sums and the maximum
  input  logic               out,             // int32 output wanted
  input  logic               mean,          // add up the tokens
  input  logic               first_token,   // with mean: starts the sum
  input  logic               last_token,    // with mean: ends it
  output logic               out_valid,
  output logic [32*TO-1:0]   out_word,
  input  logic [16*TO-1:0]   old,
  output logic               valid8,        // word8 and word16 are a token's
  output logic [8*TO-1:0]    word8,
  output logic [16*TO-1:0]   word16,
  output logic signed [31:0] d_sum,
  output logic signed [47:0] d_squares,
  output logic signed [15:0] lane_max      // largest result of the lanes that count
);
  localparam [31:0] PER_VECTOR = VB / 8;
  localparam [31:0] UNIT = 1 << FINE;          // a lane shifts by multiples of it
  localparam [31:0] SCALE = 15 + UNIT;         // bits of a shifted multiplier
  localparam [31:0] LANES = 1 << $clog2(TO);   // lanes of the trees
  localparam [31:0] KNOT_WORDS = 1024 * FUNCTIONS;       // 13 bits in steps of 8

  typedef struct packed {
    logic valid, to16, stream, act, second, act_columns, residual, fresh;
    logic [FW-1:0] which;
    logic [1:0] frac;
    logic [BW-1:0] bank;
    logic [1:0] plane, operand;
    logic [15:0] mult2;
    logic [5:0] shift2;
    logic [6:0] lanes;
  } control_t;

  typedef struct packed {                      // of a load
    logic en;
    logic [BW-1:0] bank;
    logic [6:0] index;
  } place_t;

  logic [63:0]        load_column [0:PER_VECTOR-1];   // units, multiplier, bias[31:0]; FINE = 3: [57:55], [54:32]
  logic [25:0]        scale_0 [0:TO-1];       // units, multiplier
  logic               turn_0  [0:TO-1];       // take the complement
  logic signed [31:0] acc_i   [0:TO-1], bias_0 [0:TO-1], a1 [0:TO-1], sum1 [0:TO-1];
  logic signed [15:0] data_i  [0:TO-1], data_1 [0:TO-1], data_2 [0:TO-1];
  logic signed [15:0] old_i   [0:TO-1], other_i [0:TO-1], other4 [0:TO-1];
  logic signed [16:0] times_i [0:TO-1];       // other4, twice with an odd shift2
  logic signed [15:0] add5    [0:TO-1], add6 [0:TO-1], add7 [0:TO-1];
  logic signed [63:0] turn4   [0:TO-1], turn5 [0:TO-1];     // the other lane's part of a rotation, and half a unit of the result
  logic [25:0]        scale1  [0:TO-1];
  logic [31:0]        units2  [0:TO-1];       // few bits, but loops over values of one width are faster to simulate; so below
  logic signed [63:0] x2      [0:TO-1], x6 [0:TO-1];
  logic signed [31:0] r3      [0:TO-1], r4 [0:TO-1], frac4 [0:TO-1], g5 [0:TO-1], y7 [0:TO-1], n8 [0:TO-1], o8 [0:TO-1];
  logic [20:0]        fine3   [0:TO-1];       // r3 with 12 fraction bits
  logic [9:0]         index3  [0:TO-1];       // fine3[16:7] where it is between the knots: the table's own address register
  logic [35:0]        knot3   [0:TO-1], knot4 [0:TO-1];     // F[35:15], slope[14:0]
  logic [8*TO-1:0]    next8;
  logic [16*TO-1:0]   next16;
  logic [32*TO-1:0]   next_out;
  logic signed [31:0] sum9    [0:LANES-1];
  logic signed [63:0] square9 [0:LANES-1];
  logic signed [15:0] max9    [0:LANES-1];
  logic [17:0]        m5      [0:TO-1];
  logic [15:0]        second4 [0:TO-1], second3 [0:PER_VECTOR-1], second_late [0:PER_VECTOR-1];   // multiplier of a column behind the activation
  place_t             load1, load2, load3, load4;
  logic [10*PER_VECTOR-1:0] code0, code1, code2, code3;
  control_t           c1, c2, c3, c4, c5, c6, c7, c8;
  logic               out1, mean1, first1, last1, negative, over, far;
  logic [16:0]        m_all;
  logic [4:0]         e5, e6, pairs;           // the second product's shift is 2 * e + 2
  logic               scaled6;                 // by shift2
  logic signed [63:0] x, half4;                // half a unit of the result of the token in cycle 4
  logic signed [31:0] w, t, u;
  logic signed [16:0] change, both;
  logic signed [15:0] r;
  logic [5:0]         below;
  logic [25:0]        scale_b;
  logic [14:0]        limit, size;
  logic [38:0]        beyond, ends [0:(2<<FW)-1];

  // A multiplier shifted left by UNIT - 1 - low: of shift - 1 = UNIT * units + low bits, which leave half of the result's unit, UNIT * units
  // + UNIT - 1 remain.
  function automatic logic [SCALE-1:0] scaled(input logic [15:0] value, input logic [FINE-1:0] low);
    scaled = SCALE'(value) << ~low;
  endfunction

  for (genvar g = 0; g < TO; g++) begin : g_lane
    assign acc_i[g] = acc[32*g +: 32];
    assign data_i[g] = data[16*g +: 16];
    assign old_i[g] = old[16*g +: 16];
    assign other_i[g] = other[16*g +: 16];
    assign times_i[g] = c4.shift2[0] ? {other4[g], 1'b0} : 17'(other4[g]);
    assign fine3[g] = c3.frac == 0 ? {r3[g][15], r3[g][15:0], 4'd0} : c3.frac == 1 ? {{3{r3[g][15]}}, r3[g][15:0], 2'd0} :
                      c3.frac == 2 ? {{5{r3[g][15]}}, r3[g][15:0]} : {r3[g][15:0], 5'd0};
  end
  for (genvar g = 0; g < PER_VECTOR; g++) begin : g_load
    logic [5:0] low;
    assign low = load_data[64*g+48 +: 6] - 6'd1;
    assign code0[10*g +: 10] = load_data[64*g+54 +: 10];
    assign second3[g] = 16'({1'b1, code3[10*g +: 6], 9'd0} >> code3[10*g+6 +: 4]);
    assign load_column[g] = {BYPASS != 0 & load_data[64*g+63], 63'({low[5:FINE], scaled(load_data[64*g+32 +: 16], low[FINE-1:0]), load_data[64*g +: 32]})};
  end
  for (genvar v = 0; v < TO; v = v + PER_VECTOR) begin : g_vector     // parameters that arrive together are one memory
    localparam [31:0] COLUMNS = TO - v < PER_VECTOR ? TO - v : PER_VECTOR;
    logic [64*COLUMNS-1:0] banks [0:BANKS-1];
    logic [64*COLUMNS-1:0] columns, read;
    logic [16*COLUMNS-1:0] seconds [0:BANKS-1];
    logic [16*COLUMNS-1:0] late, read_late;
    initial for (int unsigned b = 0; b < BANKS; b++) begin banks[b] = 0; seconds[b] = 0; end
    for (genvar g = 0; g < COLUMNS; g++) begin : g_column
      assign late[16*g +: 16] = second_late[g];
      assign second4[v+g] = read_late[16*g +: 16];
      assign columns[64*g +: 64] = load_column[g];
      assign bias_0[v+g] = read[64*g +: 32];
      assign {turn_0[v+g], scale_0[v+g]} = {read[64*g+63], read[64*g+32 +: 26]};
    end
    assign read = banks[bank];
    assign read_late = seconds[c4.bank];
    logic unused_bits;
    assign unused_bits = &{1'b0, read};
    always @(posedge clk) if (load_en && 32'(load_index) == v / PER_VECTOR) banks[load_bank] <= columns;
    always @(posedge clk) if (load4.en && 32'(load4.index) == v / PER_VECTOR) seconds[load4.bank] <= late;
  end
  for (genvar v = 0; v < TO; v = v + 2) begin : g_pair                // two lanes read one table
    (* rom_style = "block", ram_style = "block" *) logic [35:0] knots [0:KNOT_WORDS-1];
    for (genvar h = 0; h < 16 * FUNCTIONS; h++) begin : g_part        // tools take a long time to cut words out of a long constant
      localparam [22*1025-1:0] TABLE = h < 16 ? KNOTS_0 : h < 32 ? KNOTS_1 : h < 48 ? KNOTS_2 : KNOTS_3;
      localparam [22*65-1:0] PART = TABLE[22*64*(h%16) +: 22*65];
      initial
        for (int unsigned i = 0; i < 64; i++)
          knots[(64 * h + i) ^ 512] = {PART[22*i +: 21], 15'(PART[22*i+22 +: 22] - PART[22*i +: 22])};
    end
    for (genvar g = v; g < TO && g < v + 2; g++) begin : g_read
      if (FUNCTIONS > 1) begin : g_several
        assign knot3[g] = knots[{c3.which, index3[g]}];
      end else begin : g_one
        assign knot3[g] = knots[index3[g]];
      end
    end
  end
  logic unused;
  assign unused = &{1'b0, load_data, c1, c2, c3, c4, c5, c6, c7, c8};

  initial begin
    for (int unsigned j = 0; j < TO; j++) begin
      m5[j] = 0; data_1[j] = 0; data_2[j] = 0; a1[j] = 0; scale1[j] = 0; units2[j] = 0; x2[j] = 0; r3[j] = 0; r4[j] = 0; knot4[j] = 0;
      frac4[j] = 256; g5[j] = 0; add5[j] = 0; add6[j] = 0; add7[j] = 0; other4[j] = 0; turn4[j] = 0; turn5[j] = 0; x6[j] = 0; y7[j] = 0; n8[j] = 0; o8[j] = 0; sum1[j] = 0;
    end
    for (int unsigned j = 0; j < LANES; j++) begin
      sum9[j] = 0; square9[j] = 0; max9[j] = 0;
    end
    c1 = '0; c2 = '0; c3 = '0; c4 = '0; c5 = '0; c6 = '0; c7 = '0; c8 = '0;
    out1 = 0; mean1 = 0; first1 = 0; last1 = 0; out_valid = 0; d_sum = 0; d_squares = 0; lane_max = 0;
    valid8 = 0; word8 = 0; word16 = 0; out_word = 0; next8 = 0; next16 = 0; next_out = 0;
    load1 = '0; load2 = '0; load3 = '0; load4 = '0; code1 = '0; code2 = '0; code3 = '0;
    for (int unsigned g = 0; g < PER_VECTOR; g++) second_late[g] = 0;
    m_all = 0; e5 = 7; e6 = 7; pairs = 0; scaled6 = 0; half4 = 0; x = 0; w = 0; t = 0; u = 0; r = 0; change = 0; both = 0; negative = 0; over = 0; far = 0;
    below = 0; scale_b = 0; limit = 0; size = 0; beyond = 0;
    for (int unsigned i = 0; i < 2 << FW; i++) ends[i] = i < 2 * FUNCTIONS ? ENDS[39*i +: 39] : 39'd0;
  end

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin               // last stage first
    if (c8.valid) begin
      for (int unsigned j = 0; j < TO; j++) begin
        change = 17'($signed(n8[j][15:0])) - 17'($signed(o8[j][15:0]));
        both = 17'($signed(n8[j][15:0])) + 17'($signed(o8[j][15:0]));
        sum9[j] = 32'(change);
        w = 32'(change) * 32'(both);              // n * n - o * o fits in 32 bits
        square9[j] = 64'(w);
        max9[j] = n8[j][15:0];
      end
      for (int unsigned half = LANES / 2; half > 0; half = half / 2)
        for (int unsigned j = 0; j < half; j++)
          if (j + half < TO) begin
            sum9[j] = sum9[j] + sum9[j+half];
            square9[j] = square9[j] + square9[j+half];
            max9[j] = j + half < 32'(c8.lanes) && max9[j+half] > max9[j] ? max9[j+half] : max9[j];
          end
      d_sum <= sum9[0]; d_squares <= square9[0][47:0]; lane_max <= max9[0];
    end
    valid8 <= c7.valid;
    if (c7.valid) begin
      for (int unsigned j = 0; j < TO; j++) begin
        r = c7.residual && !c7.fresh ? old_i[j] : 16'sd0;
        if (OPERAND != 0) r = r | add7[j];
        t = 32'(r);
        w = t + 32'($signed(y7[j][15:0]));
        w = w > 32767 ? 32'sd32767 : w < -32767 ? -32'sd32767 : w;
        next8[8*j +: 8] = WIDE != 0 && c7.plane == 1 ? y7[j][15:8] : y7[j][7:0] ^ {WIDE != 0 && c7.plane == 2, 7'd0};
        next16[16*j +: 16] = w[15:0];
        n8[j] = j < 32'(c7.lanes) ? w : 32'sd0;
        o8[j] = j < 32'(c7.lanes) ? t : 32'sd0;
      end
      word8 <= next8;
      word16 <= next16;
    end
    if (c6.valid)
      for (int unsigned j = 0; j < TO; j++) begin
        x = x6[j];
        negative = x[63];
        t = 32'(x >>> {e6[4:3], 4'd2});
        u = t >>> {e6[2:1], 2'd0};
        over = !e6[4] & |(x[41:39] ^ {3{negative}}) | (e6[4:3] == 0) & |(x[38:23] ^ {16{negative}}) | (e6[2:1] != 3) & |(t[20:17] ^ {4{negative}})
             | !e6[2] & |(t[16:13] ^ {4{negative}}) | (e6[2:1] == 0) & |(t[12:9] ^ {4{negative}}) | !e6[0] & |(u[8:7] ^ {2{negative}});
        w = u >>> {e6[0], 1'b0};
        far = |(x[41:31] ^ {11{negative}}) & e6[4:3] == 0 | e6[2:1] != 3 & |(t[28:25] ^ {4{negative}}) | !e6[2] & |(t[24:21] ^ {4{negative}})
            | e6[2:1] == 0 & |(t[20:17] ^ {4{negative}}) | !e6[0] & |(u[16:15] ^ {2{negative}});        // beyond 16 bits
        if (WIDE != 0 && c6.plane != 0)
          y7[j] = 32'($signed(scaled6 & (far | negative & w[14:0] == 0) ? {negative, {14{!negative}}, 1'b1} : w[15:0]));
        else
          y7[j] = 32'($signed({scaled6 ? {9{negative}} : x[31:23],
                               scaled6 & (over | negative & w[6:0] == 0) ? {{6{!negative}}, 1'b1} : w[6:0]}));
      end
    if (c5.valid)
      for (int unsigned j = 0; j < TO; j++)
        x6[j] = 64'($signed(g5[j][24:0])) * 64'($signed(m5[j])) + (OPERAND[1] ? turn5[j] : 64'($signed(43'd2 << {e5, 1'b0})));
    scaled6 = c5.act | OPERAND != 0 & c5.operand[0];
    e6 = e5;
    if (OPERAND != 0 && c6.valid) for (int unsigned j = 0; j < TO; j++) add7[j] = add6[j];
    if (OPERAND != 0 && c5.valid) for (int unsigned j = 0; j < TO; j++) add6[j] = add5[j];
    if (OPERAND != 0 && c4.valid) for (int unsigned j = 0; j < TO; j++) add5[j] = c4.operand == 2 ? other4[j] : 16'sd0;
    if (c4.valid)
      for (int unsigned j = 0; j < TO; j++)
        g5[j] = 32'((64'($signed({knot4[j][35:15], 8'd127}))
                     + 64'(32'($signed(knot4[j][14:0])) + 32'($signed(r4[j][16:0]))) * 64'($signed(frac4[j][17:0]))) >>> 8);
    pairs = 5'((c4.shift2 - 6'd1) >> 1);
    e5 = !(c4.act | OPERAND != 0 & c4.operand[0]) ? 5'd7 : pairs > 20 ? 5'd20 : pairs;
    m_all = !c4.second ? 17'h10000 : c4.act && c4.shift2[0] ? {c4.mult2, 1'b0} : {1'b0, c4.mult2};
    if (c4.valid)
      for (int unsigned j = 0; j < TO; j++) begin
        m5[j] = {1'b0, c4.act_columns ? {second4[j], 1'b0} : m_all};
        if (OPERAND != 0 && c4.operand[0]) m5[j] = 18'(times_i[OPERAND[1] && c4.operand[1] ? j & ~1 : j]);
        if (OPERAND[1]) turn5[j] = c4.operand != 3 ? half4 : j[0] ? half4 + turn4[j] : half4 - turn4[j];
      end
    pairs = 5'((c3.shift2 - 6'd1) >> 1);
    if (OPERAND[1]) half4 = 64'($signed(43'd2 << {!(c3.act | c3.operand[0]) ? 5'd7 : pairs > 20 ? 5'd20 : pairs, 1'b0}));
    if (OPERAND != 0 && c3.valid) for (int unsigned j = 0; j < TO; j++) other4[j] = other_i[j];
    if (OPERAND[1] && c3.valid) for (int unsigned j = 0; j < TO; j++) turn4[j] = 64'($signed(r3[j ^ 1][15:0])) * 64'(other_i[j | 1]);
    if (c3.valid)
      if (c3.act)
        for (int unsigned j = 0; j < TO; j++) begin
          over = |(fine3[j][20:17] ^ {4{fine3[j][16]}});
          beyond = ends[{c3.which, !r3[j][15]}];
          r4[j] = over ? 32'($signed(fine3[j][20:4])) : 0;
          frac4[j] = over ? 32'(beyond[17:0]) : 32'({fine3[j][6:0], 1'b0});
          knot4[j] = over ? {beyond[38:18], 15'd0} : knot3[j];
        end
      else
        for (int unsigned j = 0; j < TO; j++) begin
          r4[j] = r3[j];
          frac4[j] = 256;
          knot4[j] = 0;
        end
    if (c2.valid)
      if (c2.stream) for (int unsigned j = 0; j < TO; j++) r3[j] = 32'(data_2[j]);
      else begin
        limit = c2.to16 ? 15'd32767 : 15'd127;
        for (int unsigned j = 0; j < TO; j++) begin
          x = x2[j];
          negative = x[63];
          if (FINE == 3) w = units2[j][2] ? 32'(x >>> {2'b10, units2[j][0], 3'd7}) : 32'(x >>> {1'b0, units2[j][1:0], 3'd7});
          else           w = 32'(x >>> {units2[j][5-FINE:0], {FINE{1'b1}}});
          r = {negative, w[15:1]} + {15'd0, w[0]};
          size = r[14:0] ^ {15{r[15]}};
          over = (FINE == 3 ? !units2[j][2] & |((x[53:23] ^ {31{negative}}) & (31'h7FFFFFFF << {units2[j][1:0], 3'd0}))
                            : |((x[62:15+UNIT] ^ {48-UNIT{negative}}) & ({48-UNIT{1'b1}} << {units2[j][5-FINE:0], {FINE{1'b0}}})))
               | |(size & ~limit) | r[15] & size == limit;
          r3[j] = 32'($signed(over ? {negative, limit ^ {15{negative}} | 15'd1} : r));
          case (c2.frac)              // +-32767 is beyond the knots but with 12 fraction bits
            0: index3[j] = r[12:3];
            1: index3[j] = r[14:5];
            2: index3[j] = {r3[j][15], r3[j][15:7]};
            3: index3[j] = r[11:2];
          endcase
        end
      end
    if (c1.valid) begin
      for (int unsigned j = 0; j < TO; j++) begin
        x2[j] = ((64'($signed(a1[j][31:17])) * 64'($signed({1'b0, scale1[j][SCALE-1:0]}))) <<< 17)     // two DSP slices in cascade
                + 64'($signed({1'b0, a1[j][16:0]})) * 64'($signed({1'b0, scale1[j][SCALE-1:0]}));
        units2[j] = 32'(scale1[j][SCALE +: 6-FINE]);
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
      below = shift - 6'd1;
      scale_b = 26'({below[5:FINE], scaled(mult, below[FINE-1:0])});
      if (column_params)
        for (int unsigned j = 0; j < TO; j++) begin
          a1[j] = (BYPASS != 0 && through ? 32'($signed(data_i[j] ^ {16{turn_0[j]}})) : acc_i[j]) + bias_0[j];
          scale1[j] = scale_0[j];
        end
      else
        for (int unsigned j = 0; j < TO; j++) begin
          a1[j] = acc_i[j];
          scale1[j] = scale_b;
        end
      if (stream) for (int unsigned j = 0; j < TO; j++) data_1[j] = data_i[j];
    end
    c1.valid = valid; c1.to16 = to16; c1.stream = stream; c1.act = act; c1.which = which; c1.frac = frac; c1.second = second;
    c1.act_columns = act_columns; c1.bank = bank; c1.residual = residual; c1.fresh = fresh; c1.plane = plane; c1.operand = operand; c1.mult2 = mult2;
    c1.shift2 = shift2; c1.lanes = lanes;
    for (int unsigned g = 0; g < PER_VECTOR; g++) second_late[g] <= second3[g];
    load4 <= load3;
    load3 = load2; load2 = load1;
    code3 = code2; code2 = code1; code1 = code0;
    load1.en = load_en; load1.bank = load_bank; load1.index = load_index;
    out1 = out; mean1 = mean; first1 = first_token; last1 = last_token;
  end
  /* verilator lint_on BLKSEQ */
endmodule
