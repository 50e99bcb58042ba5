// Router: online softmax and top-k of one token per cycle, one expert after another down a chain.  Arithmetic: numerics.route.
//
// run      the chain moves; must be 1 in every cycle in which a token is inside, may be 1 longer
// logits   E x int16 of a token; lanes from num_experts on are ignored. 4 <= E <= 64, K <= E, E >= num_experts >= top_k >= 1
// out_*    2 E + 8 cycles later: experts and scores of the K places in falling order (places from top_k on: anything)
// Initiation interval 1, no stall, no reset. Cost (Yosys): 45 LUTs an expert and 34 more for each of its K places; a product of
// SB x 16 bits with an adder behind it (one DSP slice), half a block RAM of 36 kbit for the exponential, half of one for what waits.
//
// In step i of a token expert i meets the sorted list, whose first place is the running maximum; its exponential is ready in step
// i + 3. The running sum takes two steps an expert (multiply, add), so the exponentials wait i - 2 steps. What waits is in short
// memories, two experts in one, with one common write position; nothing is shifted.
//
// Exponential: t = x - maximum - 1 says whether x is greater (t >= 0, distance t + 1) and how far away it is (else ~t). The table has a
// half for either sign and holds four octaves, every value with the bit below it; the other octaves are shifts of it.
module router_chain #(
  parameter [31:0] E = 16, parameter [31:0] K = 2, parameter [31:0] TW = 8,
  parameter [256*16-1:0] EXP_TABLE = '0, parameter [256*16-1:0] RECIP_TABLE = '0
) (
  input  logic            clk,
  input  logic            run,
  input  logic [7:0]      num_experts,     // experts there are
  input  logic [3:0]      top_k,           // of which a token takes so many
  input  logic            renorm,          // their scores add up to 1
  input  logic [TW-1:0]   token,           // number of the token, which goes along
  input  logic [16*E-1:0] logits,
  output logic [TW-1:0]   out_token,
  output logic [8*K-1:0]  out_expert,
  output logic [16*K-1:0] out_score
);
  localparam [31:0] IW = $clog2(E);                 // bits of an expert's number, address bits of a short line
  localparam [31:0] X = E + K - 2;                  // exponentials
  localparam [31:0] PW = $clog2(E + 4);             // address bits of the line of places
  localparam [31:0] LW = $clog2(2*E + 8);           // and of tokens
  localparam [31:0] SB = 16 + IW;                   // bits of a sum: at most E * ONE
  localparam [31:0] PB = 16 + IW;                   // bits of a place: exponential and expert
  localparam [15:0] ONE = 16'd32768;

  (* rom_style = "block" *)
  logic [15:0]        recip_table [0:255];
  logic [LW-1:0]      at;                           // write position of the lines
  logic [IW-1:0]      ago    [0:E-1];               // the write position of so many steps ago (from 1 on)
  logic [16*E-1:0]    x_late;                       // logit of expert i for the token in step i
  logic [15:0]        x1;
  logic [17*E-1:0]    e_word, e_late;               // {x > maximum, exponential} of expert i > 1: in step i + 3, in step 2 i + 1
  logic [16:0]        e3;
  logic [SB-1:0]      chosen, chosen_late;          // sum of the first top_k exponentials: in step E + 4, in step 2 E + 2
  logic [PB*K-1:0]    place, place_late;            // every place: in step E + 3, in step 2 E + 6
  logic [TW-1:0]      token_late;                   // in step 2 E + 7

  logic signed [15:0] value  [0:E-1][0:K-1];
  logic [IW-1:0]      index  [0:E-1][0:K-1];
  // exponentials: of expert i at i - 1, of place j > 0 at E - 2 + j; a step to the address, one to the table
  logic [11*X-1:0]    a_next, a_word;               // table addresses
  logic [17*X-1:0]    t_word;                       // table values, one step later
  logic [1:0]         m1     [0:X-1];               // octaves of the distance / 4
  logic               far1   [0:X-1];               // 16 octaves or more, or no expert: 0
  logic [1:0]         m2     [0:X-1];
  logic               far2   [0:X-1];
  logic [15:0]        exp3   [0:X-1];
  logic               gt1    [0:E-1];               // x is greater than the maximum before it
  logic               gt2    [0:E-1];
  logic [15:0]        factor [0:E-1];               // the next sum: s * factor / ONE + summand, rounded where greater
  logic [15:0]        summand[0:E-1];
  logic               half   [0:E-1];
  logic [SB+14:0]     prod   [0:E-1];               // in step 2 i + 3
  logic [16:0]        plus   [0:E-1];               // {summand, half}
  logic [SB-1:0]      s      [0:E-1];

  logic [IW-1:0]      pi1    [0:K-1];               // experts of the finished list
  logic [IW-1:0]      pi2    [0:K-1];
  logic [PB*K-1:0]    next_place;
  logic [17*E-1:0]    next_e;
  logic [SB-1:0]      next_chosen;

  logic [SB-1:0]      total;
  logic [15:0]        n1, n2, r2, r3, r4;           // n: sum, normalised
  logic [16:0]        r_full, w3;
  logic [2:0]         ex1, ex2, ex3, ex4, ex5;      // exponent of the sum
  logic [31:0]        p5     [0:K-1];               // exponential times reciprocal, plus the half of the rounding
  logic [16:0]        high;
  logic [IW-1:0]      i5     [0:K-1];
  logic signed [15:0] x, top;
  logic [16:0]        t, y;
  logic [15:0]        e;
  logic [SB+14:0]     sum;
  logic               on;
  logic               over   [0:K-1];               // x is greater than this place
  logic [8*K-1:0]     next_expert;
  logic [16*K-1:0]    next_score;

  // tables: {2**-f >> octave, bit below}; four octaves are one less in the bit below, so that 16 octaves give 0. Synthesis makes a block
  // RAM for every two reads of a table; Yosys runs out of memory over one of 16 reads and takes long over 8 of two
  for (genvar g = 0; g < X; g = g + 8) begin : g_table
    (* rom_style = "block" *)
    logic [16:0] exp_table [0:2047];
    initial
      for (int unsigned i = 0; i < 1024; i++) begin
        exp_table[2047 - i] = {EXP_TABLE[16*(i % 256) +: 16], 1'b0} >> (i / 256);
        exp_table[i] = i == 1023 ? 17'd4095 : {EXP_TABLE[16*((i + 1) % 256) +: 16], 1'b0} >> ((i + 1) / 256);
      end
    for (genvar h = g; h < g + 8 && h < X; h = h + 1) begin : g_read
      logic [16:0] q;
      assign t_word[17*h +: 17] = q;
      initial q = 0;
      always @(posedge clk) if (run) q <= exp_table[a_word[11*h +: 11]];
    end
  end
  initial for (int unsigned i = 0; i < 256; i++) recip_table[i] = RECIP_TABLE[16*i +: 16];

  // lines: what was written n steps ago comes out of a memory that is read one step ahead, through a register
  assign x_late[31:0] = {x1, logits[15:0]};
  for (genvar g = 2; g < E; g = g + 2) begin : g_logit
    localparam [31:0] N = g + 1 < E ? 32 : 16;
    (* ram_style = "block" *)
    logic [N-1:0] line [0:2**IW-1];
    logic [N-1:0] q;
    assign x_late[16*g +: 16] = q[15:0];
    initial begin
      for (int unsigned i = 0; i < 2**IW; i++) line[i] = 0;
      q = 0;
    end
    always @(posedge clk)
      if (run) begin
        line[at[IW-1:0]] <= logits[16*g +: N];
        q <= line[ago[g-1]];
      end
    if (g + 1 < E) begin : g_second
      logic [15:0] late;
      assign x_late[16*g + 16 +: 16] = late;
      initial late = 0;
      always @(posedge clk) if (run) late <= q[16 +: 16];
    end
  end
  assign e_late[67:0] = {e3, e_word[50:0]};
  for (genvar g = 4; g < E; g = g + 2) begin : g_exp
    localparam [31:0] N = g + 1 < E ? 34 : 17;
    (* ram_style = "block" *)
    logic [N-1:0] line [0:2**IW-1];
    logic [N-1:0] q;
    assign e_late[17*g +: 17] = q[16:0];
    initial begin
      for (int unsigned i = 0; i < 2**IW; i++) line[i] = 0;
      q = 0;
    end
    always @(posedge clk)
      if (run) begin
        line[at[IW-1:0]] <= e_word[17*g +: N];
        q <= line[ago[g-3]];
      end
    if (g + 1 < E) begin : g_second
      logic [16:0] late;
      assign e_late[17*g + 17 +: 17] = late;
      initial late = 0;
      always @(posedge clk) if (run) late <= q[17 +: 17];
    end
  end
  (* ram_style = "block" *)
  logic [SB-1:0]    chosen_line [0:2**IW-1];
  (* ram_style = "block" *)
  logic [PB*K-1:0]  place_line [0:2**PW-1];
  (* ram_style = "block" *)
  logic [TW-1:0]    token_line [0:2**LW-1];
  logic [PW-1:0]    place_from;
  logic [LW-1:0]    token_from;
  assign place_from = at[PW-1:0] - PW'(E + 2);
  assign token_from = at - LW'(2*E + 6);
  initial begin
    for (int unsigned i = 0; i < 2**IW; i++) chosen_line[i] = 0;
    for (int unsigned i = 0; i < 2**PW; i++) place_line[i] = 0;
    for (int unsigned i = 0; i < 2**LW; i++) token_line[i] = 0;
    chosen_late = 0; place_late = 0; token_late = 0; at = 0; x1 = 0; e3 = 0;
    for (int unsigned i = 0; i < E; i++) ago[i] = IW'(32'd0 - i);
  end
  always @(posedge clk)
    if (run) begin
      at <= at + 1'b1;
      ago[1] <= at[IW-1:0];
      for (int unsigned i = 2; i < E; i++) ago[i] <= ago[i-1];
      x1 <= logits[31:16];
      e3 <= e_word[67:51];
      chosen_line[at[IW-1:0]] <= chosen;
      chosen_late <= chosen_line[ago[E-3]];
      place_line[at[PW-1:0]] <= place;
      place_late <= place_line[place_from];
      token_line[at] <= token;
      token_late <= token_line[token_from];
    end

  initial begin
    for (int unsigned i = 0; i < E; i++) begin
      gt1[i] = 0; gt2[i] = 0; factor[i] = 0; summand[i] = 0; half[i] = 0; prod[i] = 0; plus[i] = 0;
      s[i] = SB'(ONE);
      for (int unsigned j = 0; j < K; j++) begin value[i][j] = 0; index[i][j] = 0; end
    end
    for (int unsigned j = 0; j < K; j++) begin
      pi1[j] = 0; pi2[j] = 0; p5[j] = 0; i5[j] = 0;
      over[j] = 0;
    end
    for (int unsigned i = 0; i < X; i++) begin m1[i] = 0; far1[i] = 0; m2[i] = 0; far2[i] = 0; exp3[i] = 0; end
    a_next = 0; a_word = 0; chosen = 0; next_chosen = 0; e_word = 0; next_e = 0; place = 0; next_place = 0; total = 0; n1 = 0; n2 = 0;
    r2 = 0; r3 = 0; r4 = 0; r_full = 0; w3 = 0; ex1 = 0; ex2 = 0; ex3 = 0; ex4 = 0; ex5 = 0; high = 0;
    x = 0; top = 0; t = 0; y = 0; e = 0; sum = 0; on = 0; out_token = 0; out_expert = 0; out_score = 0; next_expert = 0; next_score = 0;
  end

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin               // last step first: every step reads what the one before held
    if (run) begin
      // step 2 E + 7: scores; the reciprocal is at most 65535 and the exponential at most 1, so nothing saturates
      out_token <= token_late;
      for (int unsigned j = 0; j < K; j++) begin
        high = 17'(p5[j] >> 15);
        if (ex5[2]) high = high >> 4;
        next_score[16*j +: 16] = 16'(high >> ex5[1:0]);
        next_expert[8*j +: 8] = 8'(i5[j]);
      end
      out_expert <= next_expert;
      out_score <= next_score;
      // step 2 E + 6: exponential times reciprocal; the exponential of the first place is 1
      for (int unsigned j = 0; j < K; j++) begin
        e = j == 0 ? ONE : place_late[PB*j +: 16];
        p5[j] = 32'(e) * 32'(r4) + (32'd16384 << ex4);
        i5[j] = place_late[PB*j + 16 +: IW];
      end
      ex5 = ex4;
      // steps 2 E + 2 .. 2 E + 5: reciprocal of the sum (numerics.reciprocal)
      r_full = 17'((33'(r3) * 33'(w3)) >> 16);
      r4 = r_full[16] ? 16'hffff : r_full[15:0];
      ex4 = ex3;
      w3 = 17'(18'd131072 - 18'((32'(n2) * 32'(r2)) >> 15));
      r3 = r2;
      ex3 = ex2;
      r2 = recip_table[n1[14:7]];
      n2 = n1;
      ex2 = ex1;
      total = renorm ? chosen_late : s[E-1];
      ex1 = 0;
      for (int unsigned n = 1; n <= IW; n++) if (total[15 + n]) ex1 = n[2:0];
      if (ex1[2]) total = total >> 4;
      n1 = 16'(total >> ex1[1:0]);
      // running sum: step 2 i + 3 add, step 2 i + 2 multiply, step 2 i + 1 choose
      for (int unsigned i = E-1; i > 0; i--) begin
        sum = prod[i] + (SB+15)'({plus[i], 14'd0});
        s[i] = SB'(sum >> 15);
        prod[i] = (SB+15)'(s[i-1]) * (SB+15)'(factor[i]);
        plus[i] = {summand[i], half[i]};
        if (i > 1) begin
          half[i] = e_late[17*i + 16];
          factor[i] = half[i] ? e_late[17*i +: 16] : ONE;
          summand[i] = half[i] ? ONE : e_late[17*i +: 16];
        end
      end
      // exponentials: shift and round, look up, address of the places (step E)
      for (int unsigned i = 0; i < X; i++) begin
        y = t_word[17*i +: 17] >> {m2[i], 2'b00};
        exp3[i] = far2[i] ? 16'd0 : 16'((18'(y) + 18'd1) >> 1);
        m2[i] = m1[i];
        far2[i] = far1[i];
      end
      for (int unsigned j = 1; j < K; j++) begin
        x = value[E-1][j];
        top = value[E-1][0];
        t = {x[15], x} + ~{top[15], top};
        a_next[11*(X-K+j) +: 11] = {1'b1, t[9:0]};
        m1[X-K+j] = ~t[11:10];
        far1[X-K+j] = t[15:12] != 4'hf;
      end
      // places of the finished list, steps E .. E + 3
      next_chosen = SB'(ONE);
      for (int unsigned j = 1; j < K; j++) if (j < 32'(top_k)) next_chosen = next_chosen + SB'(place[PB*j +: 16]);
      chosen <= next_chosen;
      for (int unsigned j = 0; j < K; j++) begin
        next_place[PB*j +: 16] = j == 0 ? ONE : exp3[X-K+j];
        next_place[PB*j + 16 +: IW] = pi2[j];
        pi2[j] = pi1[j];
        pi1[j] = index[E-1][j];
      end
      place <= next_place;
      half[1] = gt2[1];
      factor[1] = half[1] ? exp3[0] : ONE;
      summand[1] = half[1] ? ONE : exp3[0];
      // expert i meets the list, step i
      for (int unsigned i = E-1; i > 0; i--) begin
        next_e[17*i +: 17] = {gt2[i], exp3[i-1]};
        gt2[i] = gt1[i];
        x = x_late[16*i +: 16];
        on = i < 32'(num_experts);
        top = value[i-1][0];
        t = {x[15], x} + ~{top[15], top};
        a_next[11*i - 11 +: 11] = {t[16], t[9:0]};
        m1[i-1] = t[11:10] ^ {2{t[16]}};
        far1[i-1] = !on || t[15:12] != {4{t[16]}};
        gt1[i] = on && !t[16];
        for (int unsigned j = 0; j < K; j++) over[j] = on && (j >= i || (j == 0 ? !t[16] : value[i-1][j] < x));     // i places are taken
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
      value[0][0] = logits[15:0];
      index[0][0] = 0;
      e_word <= next_e;
      a_word <= a_next;
    end
  end
  /* verilator lint_on BLKSEQ */
endmodule
