// Router: online softmax and top-k of one token per cycle, one expert after another down a chain.  Arithmetic: numerics.route.
//
// run      the chain moves; must be 1 in every cycle in which a token is inside, may be 1 longer
// logits   E x int16 of a token; lanes from num_experts on are ignored. E >= 4, K <= E, num_experts >= top_k >= 1
// out_*    2 E + 8 cycles later: experts and scores of the K places in falling order (places from top_k on: anything)
// Initiation interval 1, no stall, no reset. Cost: E products of 23 x 17, K of 17 x 17 bits, two of the reciprocal;
// E + K exp tables, one reciprocal table.
//
// In step i of a token expert i meets the running maximum (b) and the sorted list; its exponential is ready in step i + 3.
// The running sum takes two steps an expert (multiply, add), so the exponentials wait i - 1 steps. What waits is in short memories
// with one common write position; nothing is shifted.
module router_chain #(
  parameter [31:0] E = 16, parameter [31:0] K = 2, parameter [31:0] TW = 8,
  parameter [256*16-1:0] EXP_TABLE = '0, parameter [256*16-1:0] RECIP_TABLE = '0
) (
  input  logic            clk,
  input  logic            run,
  input  logic [7:0]      num_experts,
  input  logic [3:0]      top_k,
  input  logic            renorm,
  input  logic [TW-1:0]   token,
  input  logic [16*E-1:0] logits,
  output logic [TW-1:0]   out_token,
  output logic [8*K-1:0]  out_expert,
  output logic [16*K-1:0] out_score
);
  localparam [31:0] LW = $clog2(2*E + 8);           // address bits of a long line
  localparam [31:0] SW = $clog2(E);                 // and of a short one
  localparam [31:0] PLACE = K*24;                   // place line: exponential and expert of every place
  localparam signed [31:0] ONE = 32768;

  logic [15:0]        exp_table [0:255];
  logic [15:0]        recip_table [0:255];
  logic [LW-1:0]      at;                           // write position of the lines
  logic [16*E-1:0]    x_late;                       // logit of expert i for the token in step i
  logic [17*E-1:0]    e_word, e_late;               // {x > b, exponential} of expert i: in step i + 3, in step 2 i + 2
  logic [31:0]        chosen, chosen_late;          // sum of the first top_k exponentials: in step E + 4, in step 2 E + 2
  logic [PLACE-1:0]   place, place_late;            // exponential and expert of every place: in step E + 3, in step 2 E + 6
  logic [TW-1:0]      token_late;                   // in step 2 E + 7

  logic signed [15:0] b      [0:E-1];
  logic signed [15:0] value  [0:E-1][0:K-1];
  logic [7:0]         index  [0:E-1][0:K-1];
  logic [16:0]        d1     [0:E-1];               // |x - b|
  logic [15:0]        t2     [0:E-1];               // table value
  logic [8:0]         n2     [0:E-1];               // shift of it
  logic               gt1    [0:E-1];
  logic               gt2    [0:E-1];
  logic [63:0]        prod   [0:E-1];
  logic [31:0]        plus   [0:E-1];
  logic               gt4    [0:E-1];
  logic [31:0]        s      [0:E-1];

  logic [16:0]        pd1    [0:K-1];               // the same for the places of the finished list
  logic [15:0]        pt2    [0:K-1];
  logic [8:0]         pn2    [0:K-1];
  logic [7:0]         pi1    [0:K-1];
  logic [7:0]         pi2    [0:K-1];
  logic [PLACE-1:0]   next_place;
  logic [17*E-1:0]    next_e;
  logic [31:0]        next_chosen;

  logic [31:0]        total, m1, m2, r2, r3, r4, w3;
  logic [2:0]         ex1, ex2, ex3, ex4, ex5;
  logic [31:0]        p5     [0:K-1];
  logic [31:0]        w      [0:K-1];               // score before saturation
  logic [7:0]         i5     [0:K-1];
  logic signed [15:0] x;
  logic [16:0]        e;
  logic [8*K-1:0]     next_expert;
  logic [16*K-1:0]    next_score;
  logic signed [31:0] diff;

  // lines: what was written n steps ago comes out of a memory that is read one step ahead, through a register
  assign x_late[15:0] = logits[15:0];
  for (genvar g = 1; g < E; g++) begin : g_logit
    logic [15:0] q;
    assign x_late[16*g +: 16] = q;
    initial q = 0;
    if (g == 1) begin : g_one
      always_ff @(posedge clk) if (run) q <= logits[16*g +: 16];
    end else begin : g_line
      logic [15:0]   line [0:2**SW-1];
      logic [SW-1:0] from;
      assign from = at[SW-1:0] - SW'(g - 1);
      initial for (int unsigned i = 0; i < 2**SW; i++) line[i] = 0;
      always_ff @(posedge clk)
        if (run) begin
          line[at[SW-1:0]] <= logits[16*g +: 16];
          q <= line[from];
        end
    end
  end
  assign e_late[33:0] = e_word[33:0];
  for (genvar g = 2; g < E; g++) begin : g_exp
    logic [16:0] q;
    assign e_late[17*g +: 17] = q;
    initial q = 0;
    if (g == 2) begin : g_one
      always_ff @(posedge clk) if (run) q <= e_word[17*g +: 17];
    end else begin : g_line
      logic [16:0]   line [0:2**SW-1];
      logic [SW-1:0] from;
      assign from = at[SW-1:0] - SW'(g - 2);
      initial for (int unsigned i = 0; i < 2**SW; i++) line[i] = 0;
      always_ff @(posedge clk)
        if (run) begin
          line[at[SW-1:0]] <= e_word[17*g +: 17];
          q <= line[from];
        end
    end
  end
  logic [31:0]      chosen_line [0:2**LW-1];
  logic [PLACE-1:0] place_line [0:2**LW-1];
  logic [TW-1:0]    token_line [0:2**LW-1];
  logic [LW-1:0]    chosen_from, place_from, token_from;
  assign chosen_from = at - LW'(E - 3);
  assign place_from = at - LW'(E + 2);
  assign token_from = at - LW'(2*E + 6);
  initial begin
    for (int unsigned i = 0; i < 2**LW; i++) begin chosen_line[i] = 0; place_line[i] = 0; token_line[i] = 0; end
    at = 0; chosen_late = 0; place_late = 0; token_late = 0;
  end
  always_ff @(posedge clk)
    if (run) begin
      at <= at + 1'b1;
      chosen_line[at] <= chosen;
      chosen_late <= chosen_line[chosen_from];
      place_line[at] <= place;
      place_late <= place_line[place_from];
      token_line[at] <= token;
      token_late <= token_line[token_from];
    end

  initial begin
    for (int unsigned i = 0; i < 256; i++) begin
      exp_table[i] = EXP_TABLE[16*i +: 16];
      recip_table[i] = RECIP_TABLE[16*i +: 16];
    end
    for (int unsigned i = 0; i < E; i++) begin
      b[i] = 0; d1[i] = 0; t2[i] = 0; n2[i] = 0; gt1[i] = 0; gt2[i] = 0; prod[i] = 0; plus[i] = 0; gt4[i] = 0;
      s[i] = ONE;
      for (int unsigned j = 0; j < K; j++) begin value[i][j] = 0; index[i][j] = 0; end
    end
    for (int unsigned j = 0; j < K; j++) begin
      pd1[j] = 0; pt2[j] = 0; pn2[j] = 0; pi1[j] = 0; pi2[j] = 0; p5[j] = 0; w[j] = 0; i5[j] = 0;
    end
    chosen = 0; next_chosen = 0; e_word = 0; next_e = 0; next_place = 0; total = 0; m1 = 0; m2 = 0; r2 = 0; r3 = 0; r4 = 0; w3 = 0; diff = 0; x = 0; e = 0; place = 0;
    out_token = 0; out_expert = 0; out_score = 0; next_expert = 0; next_score = 0;
    ex1 = 0; ex2 = 0; ex3 = 0; ex4 = 0; ex5 = 0;
  end

  /* verilator lint_off BLKSEQ */
  always_ff @(posedge clk) begin               // last step first: every step reads what the one before held
    if (run) begin
      // step 2 E + 7: scores
      out_token <= token_late;
      for (int unsigned j = 0; j < K; j++) begin
        w[j] = (p5[j] + (32'd16384 << ex5)) >> (15 + 32'(ex5));
        next_score[16*j +: 16] = w[j] > 65535 ? 16'hffff : w[j][15:0];
        next_expert[8*j +: 8] = i5[j];
      end
      out_expert <= next_expert;
      out_score <= next_score;
      // step 2 E + 6: exponential times reciprocal
      for (int unsigned j = 0; j < K; j++) begin
        p5[j] = 32'(place_late[24*j +: 16]) * r4;
        i5[j] = place_late[24*j + 16 +: 8];
      end
      ex5 = ex4;
      // steps 2 E + 2 .. 2 E + 5: reciprocal of the sum, 2**15 <= sum < 2**22 (numerics.reciprocal)
      r4 = (r3 * w3) >> 16;
      if (r4 > 65535) r4 = 65535;
      ex4 = ex3;
      w3 = 131072 - ((m2 * r2) >> 15);
      r3 = r2;
      ex3 = ex2;
      r2 = 32'(recip_table[m1[14:7]]);
      m2 = m1;
      ex2 = ex1;
      total = renorm ? chosen_late : s[E-1];
      ex1 = 0;
      for (int unsigned n = 1; n < 7; n++) if ((total >> (15 + n)) != 0) ex1 = n[2:0];
      m1 = total >> ex1;
      // running sum: step 2 i + 3 add, step 2 i + 2 multiply
      for (int unsigned i = E-1; i > 0; i--) begin
        s[i] = gt4[i] ? 32'((prod[i] + 16384) >> 15) + ONE : plus[i];
        e = e_late[17*i +: 17];
        prod[i] = 64'(s[i-1]) * 64'(e[15:0]);
        plus[i] = s[i-1] + 32'(e[15:0]);
        gt4[i] = e[16];
      end
      // places of the finished list, steps E .. E + 3
      next_chosen = 0;
      for (int unsigned j = 0; j < K; j++) if (j < 32'(top_k)) next_chosen = next_chosen + 32'(place[24*j +: 16]);
      chosen <= next_chosen;
      for (int unsigned j = 0; j < K; j++) begin
        next_place[24*j +: 16] = pn2[j] > 15 ? 16'd0 : 16'((32'(pt2[j]) + ((32'd1 << pn2[j]) >> 1)) >> pn2[j]);
        next_place[24*j + 16 +: 8] = pi2[j];
        pt2[j] = exp_table[pd1[j][7:0]];
        pn2[j] = pd1[j][16:8];
        pi2[j] = pi1[j];
        diff = 32'(b[E-1]) - 32'(value[E-1][j]);
        pd1[j] = diff[16:0];
        pi1[j] = index[E-1][j];
      end
      place <= next_place;
      // exponential of expert i, steps i .. i + 2; maximum and list, step i
      for (int unsigned i = E-1; i > 0; i--) begin
        next_e[17*i +: 16] = n2[i] > 15 ? 16'd0 : 16'((32'(t2[i]) + ((32'd1 << n2[i]) >> 1)) >> n2[i]);
        next_e[17*i + 16] = gt2[i];
        t2[i] = exp_table[d1[i][7:0]];
        n2[i] = d1[i][16:8];
        gt2[i] = gt1[i];
        gt1[i] = 0;
        d1[i] = 17'h1ffff;                          // no expert: exponential 0
        b[i] = b[i-1];
        for (int unsigned j = 0; j < K; j++) begin
          value[i][j] = value[i-1][j];
          index[i][j] = index[i-1][j];
        end
        x = x_late[16*i +: 16];
        if (i < 32'(num_experts)) begin
          diff = 32'(x) - 32'(b[i-1]);
          gt1[i] = diff > 0;
          d1[i] = diff > 0 ? diff[16:0] : 17'(-diff);
          if (diff > 0) b[i] = x;
          for (int unsigned j = 0; j < K; j++)      // i places are taken before expert i comes
            if (j >= i || value[i-1][j] < x)
              if (j == 0 || (j <= i && value[i-1][j-1] >= x)) begin
                value[i][j] = x;
                index[i][j] = i[7:0];
              end else begin
                value[i][j] = value[i-1][j-1];
                index[i][j] = index[i-1][j-1];
              end
        end
      end
      b[0] = logits[15:0];
      value[0][0] = logits[15:0];
      index[0][0] = 0;
      e_word <= next_e;
    end
  end
  /* verilator lint_on BLKSEQ */
endmodule
