// Feed lanes: TI values of one token per cycle, from a memory word to the array.  Latency 3, initiation interval 1.
//
// mode 0  pass       a = act
// mode 1  normalise  a = sat8(((res << 4) - mean) * mult rounded >> shift)                 numerics.normalize; mode 3 the same
//         with WIDE and plane 1 or 2 the high or the low half of 16 bits, shift 9..36       numerics.normalize_wide, planes
// mode 2  exp        p = exp2_p8(row_max - score), 0 from lane `lanes` on; a = p - 128      numerics.exp2_p8
//         top = row_max + half of what the distance top - score loses; scores have 6, 8, 10 or 4 fraction bits by `frac`, the table
//         has FRAC, 6 or 7, and an entry for each fraction
// LISTS: with none the token is all zeros: a = 0, of the low half of 16 bits -128
// psum: sum of p over the lanes, 5 cycles after the input.
// No stall, no reset. Cost of a lane: a product of 21 x 17 bits whose difference, rounding and registers fit into its DSP slice, half
// a block RAM of 18 kbit for the exponential of 16 octaves, some 105 LUTs: window of the product and output 32, its overflow 35, distance 16.
module feed_lanes #(
  parameter [31:0] TI = 16, parameter [31:0] FRAC = 6, parameter [(16<<FRAC)-1:0] EXP_TABLE = '0, parameter [31:0] WIDE = 0,
  parameter [31:0] BYPASS = 0, parameter [31:0] LISTS = 0
) (
  input  logic               clk,
  input  logic               valid,         // a token comes in this cycle
  input  logic [1:0]         mode,
  input  logic [1:0]         plane,        // of 16 bits: 1 the high half, 2 the low one
  input  logic [8*TI-1:0]    act,          // TI activations
  input  logic [16*TI-1:0]   res,          // TI values of the residual stream
  input  logic [16*TI-1:0]   score,        // TI scores
  input  logic signed [20:0] mean,
  input  logic [15:0]        mult,
  input  logic [5:0]         shift,        // of the product, to the right
  input  logic signed [16:0] top,          // largest score of the row, raised
  input  logic [1:0]         frac,         // fraction bits of the scores: 6, 8, 10, 4
  input  logic [6:0]         lanes,        // lanes that are used
  input  logic               none,         // with LISTS: no token, all zeros
  output logic [8*TI-1:0]    a,            // to the array
  output logic [16*TI-1:0]   b,          // with BYPASS: a, and with plane 2 all 16 bits; else 0
  output logic [31:0]        psum
);
  localparam [31:0] QUADS = (TI + 3) / 4, SUMS = (TI + 15) / 16, NEAR = FRAC + 4;     // bits of a distance below 16 octaves

  (* rom_style = "block" *) logic [7:0] exp_rom [0:2**NEAR-1];        // distance -> p
  logic [7:0]         act_i [0:TI-1];
  logic [15:0]        res_i [0:TI-1];
  logic [15:0]        score_i [0:TI-1];
  logic [8*TI-1:0]    word;
  logic [16*TI-1:0]   whole;
  logic [7:0]         above [0:TI-1];             // of y2 above t, of t above u
  logic [7:0]         upper [0:TI-1];
  for (genvar g = 0; g < TI; g++) begin : g_lane
    assign act_i[g] = act[8*g +: 8];
    assign res_i[g] = res[16*g +: 16];
    assign score_i[g] = score[16*g +: 16];
  end

  logic               v1, v2, v3, v4;
  logic [1:0]         mode1, mode2, mode3;
  // normalise: an odd shift doubles the multiplier; the even shift that remains is 2 + 8 * coarse + 4 * middle + 2 * fine.
  // Of a shift of 37 and more nothing is left: product and half are 0.
  // The high half of 16 bits is like 8 bits, the low one that of a shift less by 8, and out of range where the high one would be.
  logic               high, low, high1, low1, low2, near2, narrow2;
  logic [5:0]         place1;                     // of the first bit above the low half's 16
  logic [21:0]        over_w2;                    // over2, bit for bit
  logic [5:0]         below;                      // shift - 1
  logic [16:0]        mult1;
  logic [35:0]        half1;
  logic [1:0]         coarse1, middle1, coarse2, middle2;       // middle2 3: pass
  logic               fine1;
  logic [1:0]         from2;                      // a from: 0 exp, 1 lower bits of u, 2 normalise with fine, 3 pass
  logic signed [20:0] x1 [0:TI-1];                // (res << 4) - mean
  logic signed [38:0] y2 [0:TI-1];                // product + half
  logic [7:0]         s [0:TI-1];                 // its sign, as often as the comparisons need it
  logic [2:0]         over2;                      // bits that must be like the sign: 37..32, 31..24, 23..16 of y2,
  logic               over_t2, over_u2;           // 13..10 of t, 8 and 7 of u
  logic [9:0]         low_u2;                     // lower bits of u which, with its bits 6..2, are 0 in -128
  logic [13:0]        t [0:TI-1];                 // y2 from bit 2 + 8 * coarse
  logic [9:0]         u [0:TI-1];                 // t from bit 4 * middle
  logic               sat [0:TI-1];

  logic [7:0]         pass1 [0:TI-1];
  logic [7:0]         pass2 [0:TI-1];
  logic [16:0]        d1 [0:TI-1];                // distance
  logic [NEAR-1:0]    near1 [0:TI-1];             // the same below 16 octaves, with FRAC fraction bits
  logic               off1 [0:TI-1];              // lane is not used
  logic               far1 [0:TI-1];              // 16 octaves and more
  logic [1:0]         frac1;
  logic [7:0]         p2 [0:4*QUADS-1];
  logic [9:0]         quad3 [0:4*SUMS-1];         // sums of 4 lanes, of 16, of all; two sums side by side in one adder
  logic [11:0]        sum4 [0:3];
  logic [17:0]        pair2;
  logic [21:0]        pair3;
  logic [25:0]        pair4;
  for (genvar g = 0; g < TI; g++) begin : g_near
    assign near1[g] = frac1 == 0 ? NEAR'(d1[g][9:0]) << (FRAC - 6) : frac1 == 1 ? NEAR'(d1[g][11:0] >> (8 - FRAC)) :
                      frac1 == 2 ? NEAR'(d1[g][13:0] >> (10 - FRAC)) : NEAR'(d1[g][7:0]) << (FRAC - 4);
    assign far1[g] = |d1[g][16:14] | (frac1 != 2) & |d1[g][13:12] | (frac1[1] == frac1[0]) & |d1[g][11:10] | (frac1 == 3) & |d1[g][9:8];
  end

  initial begin
    for (int unsigned i = 0; i < 2**NEAR; i++)
      exp_rom[i] = i < 9 << FRAC ? 8'((32'(EXP_TABLE[16*(i % 2**FRAC) +: 16]) + (128 << (i >> FRAC))) >> (8 + (i >> FRAC))) : 8'd0;
    for (int unsigned i = 0; i < TI; i++) begin
      x1[i] = 0; y2[i] = 0; d1[i] = 0; off1[i] = 0; pass1[i] = 0; pass2[i] = 0; u[i] = 0; sat[i] = 0; s[i] = 0; t[i] = 0;
      above[i] = 0; upper[i] = 0;
    end
    for (int unsigned i = 0; i < 4*QUADS; i++) p2[i] = 0;
    for (int unsigned i = 0; i < 4*SUMS; i++) quad3[i] = 0;
    for (int unsigned i = 0; i < 4; i++) sum4[i] = 0;
    v1 = 0; v2 = 0; v3 = 0; v4 = 0; mode1 = 0; frac1 = 0; mode2 = 0; mode3 = 0; mult1 = 0; half1 = 0; fine1 = 0; from2 = 0;
    coarse1 = 0; middle1 = 0; coarse2 = 0; middle2 = 0; a = 0; psum = 0;
    high1 = 0; low1 = 0; low2 = 0; near2 = 0; narrow2 = 0; over_w2 = 0; place1 = 0;
    word = 0; whole = 0; b = 0; below = 0; over2 = 0; over_t2 = 0; over_u2 = 0; low_u2 = 0; pair2 = 0; pair3 = 0; pair4 = 0;
  end

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin              // last stage first: every stage reads what the one before held
    if (v4) begin
      pair4 = {1'b0, sum4[2], 1'b0, sum4[0]} + {1'b0, sum4[3], 1'b0, sum4[1]};
      psum <= 32'(pair4[25:13]) + 32'(pair4[12:0]);
    end
    v4 = v3 && mode3 == 2;
    if (v4) begin
      for (int unsigned i = 0; i < SUMS; i++) begin
        pair3 = {1'b0, quad3[4*i + 2], 1'b0, quad3[4*i]} + {1'b0, quad3[4*i + 3], 1'b0, quad3[4*i + 1]};
        sum4[i] = 12'(pair3[21:11]) + 12'(pair3[10:0]);
      end
      for (int unsigned i = SUMS; i < 4; i++) sum4[i] = 0;
    end
    v3 = v2;
    mode3 = mode2;
    if (v2 && mode2 == 2) begin
      for (int unsigned i = 0; i < QUADS; i++) begin
        pair2 = {1'b0, p2[4*i + 2], 1'b0, p2[4*i]} + {1'b0, p2[4*i + 3], 1'b0, p2[4*i + 1]};
        quad3[i] = 10'(pair2[17:9]) + 10'(pair2[8:0]);
      end
      for (int unsigned i = QUADS; i < 4*SUMS; i++) quad3[i] = 0;
    end
    word = a;
    for (int unsigned i = 0; i < TI; i++) begin
      s[i] = {8{y2[i][38]}};
      t[i] = coarse2 == 0 ? y2[i][15:2] : coarse2 == 1 ? y2[i][23:10] : coarse2 == 2 ? y2[i][31:18] : {s[i][0], y2[i][38:26]};
      u[i] = middle2 == 0 ? t[i][9:0] : middle2 == 1 ? t[i][13:4] : middle2 == 2 ? {s[i][3:0], t[i][13:8]} : 10'(pass2[i]);
      sat[i] = (WIDE != 0 ? |((y2[i][37:16] ^ {s[i][5:0], s[i], s[i]}) & over_w2)
                          : over2[2] & |(y2[i][37:32] ^ s[i][5:0]) | over2[1] & |(y2[i][31:24] ^ s[i]) | over2[0] & |(y2[i][23:16] ^ s[i])) |
               over_t2 & |(t[i][13:10] ^ s[i][3:0]) | over_u2 & |(u[i][8:7] ^ s[i][1:0]) | near2 & (u[i][9] ^ s[i][0]) |
               narrow2 & s[i][0] & ~|u[i][6:2] & ~|(u[i] & low_u2);
    end
    if (v2)
      for (int unsigned i = 0; i < TI; i++) begin
        word[8*i +: 8] = from2 == 0 ? p2[i] ^ 8'h80 : from2[0] ? u[i][7:0] : u[i][9:2];
        if (sat[i]) word[8*i +: 8] = {y2[i][38], {6{~y2[i][38]}}, narrow2 | ~y2[i][38]};
        else if (low2) word[8*i+7] = ~word[8*i+7];
      end
    a <= word;
    if (BYPASS != 0) begin
      for (int unsigned i = 0; i < TI; i++) begin
        above[i] = coarse2 == 0 ? y2[i][23:16] : coarse2 == 1 ? y2[i][31:24] : coarse2 == 2 ? {s[i][0], y2[i][38:32]} : s[i];
        upper[i] = middle2[0] ? above[i] : {above[i][3:0], t[i][13:10]};
        upper[i] = sat[i] ? {s[i][0], {7{~s[i][0]}}} : from2[0] ? {upper[i][5:0], u[i][9:8]} : upper[i];
        whole[16*i +: 16] = low2 ? {upper[i], word[8*i +: 8] ^ 8'h80} : 16'($signed(word[8*i +: 8]));
      end
      b <= whole;
    end
    if (v1 && mode1 == 0) for (int unsigned i = 0; i < TI; i++) pass2[i] = pass1[i];
    if (v1 && mode1[0]) for (int unsigned i = 0; i < TI; i++) y2[i] = 39'(x1[i]) * $signed({22'd0, mult1}) + $signed({3'd0, half1});
    if (v1 && mode1 == 2) begin
      for (int unsigned i = 0; i < TI; i++) p2[i] = off1[i] || far1[i] ? 8'd0 : exp_rom[near1[i]];
      for (int unsigned i = TI; i < 4*QUADS; i++) p2[i] = 0;
    end
    v2 = v1;
    mode2 = mode1;
    coarse2 = coarse1;
    middle2 = mode1[0] ? middle1 : 2'd3;
    over2 = {coarse1 != 3, coarse1 < 2, coarse1 == 0} & {3{mode1[0]}};
    place1 = low1 ? {1'b0, coarse1, middle1[0], fine1, 1'b1} : coarse1 == 3 ? 6'd22 : {1'b0, coarse1, 3'd0};
    if (WIDE != 0) for (int unsigned i = 0; i < 22; i++) over_w2[i] = mode1[0] & i >= 32'(place1);
    over_t2 = mode1[0] & ~low1 & middle1 == 0;
    over_u2 = mode1[0] & ~low1 & ~fine1;
    near2 = mode1[0] & ~low1;
    low2 = mode1[0] & low1;
    narrow2 = mode1[0] & ~high1 & ~low1;
    low_u2 = fine1 ? 10'h180 : 10'h003;
    from2 = mode1 == 0 ? 2'd3 : mode1[0] ? {fine1, ~fine1} : 2'd0;
    if (valid && mode == 0) for (int unsigned i = 0; i < TI; i++) pass1[i] = LISTS != 0 && none ? {WIDE != 0 && plane == 2, 7'd0} : act_i[i];
    if (valid && mode[0]) for (int unsigned i = 0; i < TI; i++) x1[i] = {res_i[i][15], res_i[i], 4'd0} - mean;
    if (valid && mode == 2)
      for (int unsigned i = 0; i < TI; i++) begin
        d1[i] = top - 17'($signed(score_i[i]));
        off1[i] = i >= 32'(lanes);
      end
    v1 = valid;
    mode1 = mode;
    frac1 = frac;
    below = shift ^ {~|shift[4:0], ~|shift[3:0], ~|shift[2:0], ~|shift[1:0], ~shift[0], 1'b1};
    high = WIDE != 0 && plane == 1;
    low = WIDE != 0 && plane == 2;
    mult1 = below >= 36 || LISTS != 0 && none ? 17'd0 : below[0] ? 17'(mult) : {mult, 1'b0};
    half1 = below >= 36 || LISTS != 0 && none ? 36'd0 : 36'd2 << {below[5:3] ^ {~|below[4:3] & (high | low), ~below[3] & (high | low), high | low}, below[2:1], 1'b0};
    coarse1 = below[5] ? 2'd3 : below[4:3] ^ {~below[3] & low, low};
    middle1 = {below[5] & ~low, below[2] & ~below[5]};
    fine1 = below[1];
    high1 = high;
    low1 = low;
  end
  /* verilator lint_on BLKSEQ */
endmodule
