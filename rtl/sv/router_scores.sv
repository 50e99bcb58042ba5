// Router of scores: the K experts with the largest score + bias of one token per cycle, one expert after another down a chain; then
// their scores, as they are or divided by their sum.  Arithmetic: numerics.route_scores.
//
// scores   E x uint16 of a token, unit 2**-15, at most 32767; lanes from num_experts on are ignored. 8 <= E <= 64, K <= E and K <= 15,
//          E >= num_experts >= top_k >= 1
// bias     E x int16, of every token that is inside
// out_*    2 E + 8 cycles later: experts and scores of the K places in falling order (places from top_k on: anything)
// Initiation interval 1, no stall, no reset. Cost: 18 + $clog2(E) flip-flops and 60 LUTs an expert and place, delay lines of 18 bits an
// expert, three products of 16 x 16 bits and one a place.
//
// In step 1 + i of a token expert i meets the sorted list; from step E + 1 on the list is complete. A place's score is its key less the
// bias of its expert. The sum and the scores are shifted left to where the reciprocal (numerics.reciprocal) takes them.
module router_scores #(
  parameter [31:0] E = 16, parameter [31:0] K = 2, parameter [256*16-1:0] RECIP_TABLE = '0
) (
  input  logic            clk,
  input  logic [7:0]      num_experts,     // experts there are
  input  logic [3:0]      top_k,           // of which a token takes so many
  input  logic            renorm,          // their scores add up to 1
  input  logic [16*E-1:0] scores,
  input  logic [16*E-1:0] bias,
  output logic [8*K-1:0]  out_expert,
  output logic [16*K-1:0] out_score
);
  localparam [31:0] IW = $clog2(E);
  localparam [31:0] KW = 18;                        // bits of a key: score + bias
  localparam [31:0] PW = 16 + IW;                   // of a place: score, expert
  localparam [31:0] PAIRS = (K + 1) / 2, FOURS = (K + 3) / 4;

  (* rom_style = "block" *)
  logic [15:0]        recip_table [0:255];
  logic [KW*E-1:0]    key, late;                    // of every expert: in step 1, and when it meets the list
  logic signed [KW-1:0] value [0:E-1][0:K-1];
  logic [IW-1:0]      index  [0:E-1][0:K-1];
  logic signed [KW-1:0] key1 [0:K-1];
  logic [IW-1:0]      index1 [0:K-1];
  logic [15:0]        bias1  [0:K-1];
  logic [PW*K-1:0]    place, place3, place_late;    // in step E + 3, in step 2 E - 2, and where the sum is known
  logic [PW*K-1:0]    next_place;
  logic [KW*E-1:0]    next_key;
  logic [16:0]        pair4  [0:PAIRS-1];
  logic [17:0]        four5  [0:FOURS-1];
  logic [18:0]        total6, total7;
  logic [4:0]         length7;                      // bits of the sum
  logic [15:0]        n8, n9;
  logic [15:0]        r9, r10, r11;
  logic [16:0]        w10, r_full;
  logic [3:0]         lift8, lift9;
  logic [1:0]         ex8, ex9, ex10, ex11, ex12;
  logic [15:0]        s10 [0:K-1];
  logic [15:0]        s11 [0:K-1];
  logic [15:0]        s12 [0:K-1];
  logic [IW-1:0]      i10 [0:K-1];
  logic [IW-1:0]      i11 [0:K-1];
  logic [IW-1:0]      i12 [0:K-1];
  logic [32:0]        p12 [0:K-1];
  logic [8*K-1:0]     next_expert;
  logic [16*K-1:0]    next_score;
  logic signed [KW-1:0] x;
  logic               over [0:K-1];                 // x is greater than this place
  logic               on;
  logic [15:0]        a, b;
  logic [17:0]        high;

  initial for (int unsigned i = 0; i < 256; i++) recip_table[i] = RECIP_TABLE[16*i +: 16];

  assign late[KW-1:0] = key[KW-1:0];
  for (genvar g = 1; g < E; g++) begin : g_wait
    delay #(.W(KW), .N(g)) wait_in_line (.clk(clk), .rst(1'b0), .d(key[KW*g +: KW]), .q(late[KW*g +: KW]));
  end
  delay #(.W(PW*K), .N(E - 5)) wait_for_the_chain (.clk(clk), .rst(1'b0), .d(place), .q(place3));      // the other router's
  delay #(.W(PW*K), .N(6)) wait_for_the_sum (.clk(clk), .rst(1'b0), .d(place3), .q(place_late));

  initial begin
    for (int unsigned i = 0; i < E; i++)
      for (int unsigned j = 0; j < K; j++) begin value[i][j] = 0; index[i][j] = 0; end
    for (int unsigned j = 0; j < K; j++) begin
      key1[j] = 0; index1[j] = 0; bias1[j] = 0; s10[j] = 0; s11[j] = 0; s12[j] = 0; i10[j] = 0; i11[j] = 0; i12[j] = 0; p12[j] = 0;
      over[j] = 0;
    end
    for (int unsigned i = 0; i < PAIRS; i++) pair4[i] = 0;
    for (int unsigned i = 0; i < FOURS; i++) four5[i] = 0;
    key = 0; next_key = 0; place = 0; next_place = 0; total6 = 0; total7 = 0; length7 = 0; n8 = 0; n9 = 0; r9 = 0; r10 = 0; r11 = 0; w10 = 0;
    r_full = 0; lift8 = 0; lift9 = 0; ex8 = 0; ex9 = 0; ex10 = 0; ex11 = 0; ex12 = 0; next_expert = 0; next_score = 0; x = 0; on = 0; a = 0; b = 0;
    high = 0; out_expert = 0; out_score = 0;
  end

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin               // last step first: every step reads what the one before held
    // step 13 behind the list: shares
    for (int unsigned j = 0; j < K; j++) begin
      high = 18'(p12[j] >> 15) >> ex12;
      next_score[16*j +: 16] = !renorm ? {s12[j][14:0], 1'b0} : |high[17:16] ? 16'hffff : high[15:0];
      next_expert[8*j +: 8] = 8'(i12[j]);
    end
    out_expert <= next_expert;
    out_score <= next_score;
    // step 12: score times reciprocal, with the half of the rounding
    for (int unsigned j = 0; j < K; j++) begin
      p12[j] = 33'(s11[j]) * 33'(r11) + (33'd16384 << ex11);
      s12[j] = s11[j];
      i12[j] = i11[j];
    end
    ex12 = ex11;
    // steps 8 .. 11: reciprocal of the sum
    r_full = 17'((33'(r10) * 33'(w10)) >> 16);
    r11 = r_full[16] ? 16'hffff : r_full[15:0];
    ex11 = ex10;
    for (int unsigned j = 0; j < K; j++) begin
      s11[j] = s10[j];
      i11[j] = i10[j];
      s10[j] = place_late[PW*j +: 16] << lift9;
      i10[j] = place_late[PW*j + 16 +: IW];
    end
    w10 = 17'(18'd131072 - 18'((32'(n9) * 32'(r9)) >> 15));
    r10 = r9;
    ex10 = ex9;
    r9 = recip_table[n8[14:7]];
    n9 = n8;
    lift9 = lift8;
    ex9 = ex8;
    n8 = 16'({total7, 16'd0} >> length7);      // the leading one in bit 15
    lift8 = renorm && length7 < 16 ? 4'(5'd16 - length7) : 4'd0;
    ex8 = length7 > 16 ? 2'(length7 - 5'd16) : 2'd0;
    // steps 4 .. 7: the sum of the scores, and its length
    total7 = total6;                           // of 0 any reciprocal will do: every score is 0
    length7 = 1;
    for (int unsigned n = 1; n < 19; n++) if (total6[n]) length7 = 5'(n + 1);
    total6 = 0;
    for (int unsigned i = 0; i < FOURS; i++) total6 = total6 + 19'(four5[i]);
    for (int unsigned i = 0; i < FOURS; i++) four5[i] = 18'(pair4[2*i]) + (2*i + 1 < PAIRS ? 18'(pair4[2*i + 1 < PAIRS ? 2*i + 1 : 0]) : 18'd0);
    for (int unsigned i = 0; i < PAIRS; i++) begin
      a = 2*i < 32'(top_k) ? place3[PW*2*i +: 16] : 16'd0;
      b = 2*i + 1 < 32'(top_k) && 2*i + 1 < K ? place3[PW*(2*i + 1 < K ? 2*i + 1 : 0) +: 16] : 16'd0;
      pair4[i] = 17'(a) + 17'(b);
    end
    // steps 2 and 3: the scores of the places
    for (int unsigned j = 0; j < K; j++) begin
      next_place[PW*j +: 16] = key1[j][15:0] - bias1[j];
      next_place[PW*j + 16 +: IW] = index1[j];
      key1[j] = value[E-1][j];
      index1[j] = index[E-1][j];
      bias1[j] = bias[16*32'(index[E-1][j]) +: 16];
    end
    place <= next_place;
    // expert i meets the list
    for (int unsigned i = E-1; i > 0; i--) begin
      x = late[KW*i +: KW];
      on = i < 32'(num_experts);
      for (int unsigned j = 0; j < K; j++) over[j] = on && (j >= i || value[i-1][j] < x);     // i places are taken
      for (int unsigned j = 0; j < K; j++)
        if (!over[j]) begin
          value[i][j] = value[i-1][j];
          index[i][j] = index[i-1][j];
        end else if (j == 0 || !over[j-1]) begin
          value[i][j] = x;
          index[i][j] = i[IW-1:0];
        end else begin
          value[i][j] = value[i-1][j-1];
          index[i][j] = index[i-1][j-1];
        end
    end
    value[0][0] = late[KW-1:0];
    index[0][0] = 0;
    for (int unsigned i = 0; i < E; i++)
      next_key[KW*i +: KW] = {2'b00, scores[16*i +: 16]} + {{2{bias[16*i+15]}}, bias[16*i +: 16]};
    key <= next_key;
  end
  /* verilator lint_on BLKSEQ */
endmodule
