// Weight-stationary PE array: TI rows x TO columns of int8 x int8, column sums in DSP cascades of SEG rows.
//
// a, last      one token per cycle: TI activations, and whether it is the last of its tile     (no stall, no valid)
// load_*       writes LC columns (load_row = 0: TI weights each of columns load_index, load_index + 1, ...; load_index is even when it is more
//              than one) or one row (load_row = 1: the first TO bytes of load_data into row load_index) of the next tile; load_clear starts
//              it: its column sums are zeroed first; load_done comes with its last write
// taken        the next tile has been loaded and has gone to work: from the following cycle on another one can be loaded
// sum          TO sums of 32 bits, SEG + 1 cycles after the token. A tile loaded by rows has 128 * (sum of its column) added:
//              the feed streams p - 128 for an unsigned p.
//
// Initiation interval 1, no stall; rst forgets the tiles. Cost: TI x TO multiply-adds (one DSP slice each), 2 TI x TO bytes of weights.
// Row i of a segment sees the token i cycles late (skew), so one cascade of SEG multiply-adds needs no adder tree.
// Rolled loops with blocking assignments in one clocked block: the form that simulates fastest (see docs/explanation/simulation.md).
module pe_array #(
  parameter [31:0] TI = 16, parameter [31:0] TO = 16, parameter [31:0] SEG = 16, parameter [31:0] LC = 1, parameter [31:0] IW = $clog2(TI)
) (
  input  logic            clk,
  input  logic            rst,
  input  logic [8*TI-1:0] a,
  input  logic            last,
  input  logic            load_en,
  input  logic            load_clear,
  input  logic            load_row,
  input  logic            load_wide,     // columns: all LC of load_data, else the first
  input  logic            load_done,
  input  logic [IW-1:0]   load_index,
  input  logic [8*TI*LC-1:0] load_data,
  output logic            taken,
  output logic [32*TO-1:0] sum
);
  localparam [31:0] SUM = $clog2(TI) + 16;              // bits of a sum with its column correction

  logic signed [7:0]  weight [0:TI-1][0:TO-1];
  logic signed [31:0] column [0:TO-1];                 // 128 * column sums of a row-loaded tile
  logic signed [7:0]  next_weight [0:TI-1][0:TO-1];    // the tile that is being loaded
  logic signed [31:0] next_column [0:TO-1];
  logic signed [31:0] p      [0:TI-1][0:TO-1];
  logic signed [31:0] total  [0:TO-1];
  logic [32*TO-1:0]   word;
  logic signed [7:0]  skew   [0:SEG*TI-1];             // the last SEG tokens, newest last
  logic signed [31:0] x;
  logic signed [7:0]  lane   [0:TI-1];
  logic signed [7:0]  data   [0:TI*LC-1];

  for (genvar g = 0; g < TI; g++) begin : g_lane
    assign lane[g] = a[8*g +: 8];
  end
  for (genvar g = 0; g < TI*LC; g++) begin : g_data
    assign data[g] = load_data[8*g +: 8];
  end

  // Rows change to the next tile one by one, behind the last token of theirs; step SEG is the column correction.
  logic [SEG:0]   at, idle, swap, tile;
  logic [SEG-1:0] last_q;
  logic           loaded;                              // number of the loaded tile, modulo 2; tile: of the one in use
  assign at = {last_q, last};
  assign swap = (at | idle) & (tile ^ {(SEG+1){loaded}});
  assign taken = swap != 0 && (tile ^ swap) == {(SEG+1){loaded}};
  initial begin
    last_q = 0; idle = '1; tile = 0; loaded = 0;
  end
  always @(posedge clk)
    if (rst) begin
      last_q <= 0; idle <= '1; tile <= 0; loaded <= 0;
    end else begin
      last_q <= at[SEG-1:0];
      idle <= (at | idle) & ~swap;
      tile <= tile ^ swap;
      loaded <= loaded ^ load_done;
    end

  initial begin
    for (int unsigned j = 0; j < TO; j++) begin column[j] = 0; next_column[j] = 0; end
    for (int unsigned i = 0; i < TI; i++) for (int unsigned j = 0; j < TO; j++) begin weight[i][j] = 0; next_weight[i][j] = 0; end
    for (int unsigned i = 0; i < TI; i++) for (int unsigned j = 0; j < TO; j++) p[i][j] = 0;
    for (int unsigned j = 0; j < TO; j++) total[j] = 0;
    word = 0;
    sum = 0;
    for (int unsigned i = 0; i < SEG*TI; i++) skew[i] = 0;
    x = 0;
  end

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin
    // sums of the segments and the column correction (p as it was before this edge)
    for (int unsigned j = 0; j < TO; j++) total[j] = column[j] + p[SEG-1][j];
    if (swap[SEG]) for (int unsigned j = 0; j < TO; j++) column[j] = next_column[j];
    if (TI > SEG) for (int unsigned i = 2*SEG-1; i < TI; i += SEG)
      for (int unsigned j = 0; j < TO; j++) total[j] = total[j] + p[i][j];
    for (int unsigned j = 0; j < TO; j++) word[32*j +: 32] = 32'($signed(total[j][SUM-1:0]));
    sum <= word;
    // skew: row i works on the token that came i % SEG cycles ago
    for (int unsigned i = 0; i < TI*SEG - TI; i++) skew[i] = skew[i+TI];
    for (int unsigned i = 0; i < TI; i++) skew[TI*SEG - TI + i] = lane[i];
    // cascades, last row first: every row adds to the value its upper neighbour had before this edge
    for (int unsigned i = TI-1; i < TI; i--) begin
      x = 32'(skew[(SEG-1 - (i & (SEG-1)))*TI + i]);
      if ((i & (SEG-1)) == 0) for (int unsigned j = 0; j < TO; j++) p[i][j] = x * 32'(weight[i][j]);
      else                    for (int unsigned j = 0; j < TO; j++) p[i][j] = p[i-1][j] + x * 32'(weight[i][j]);
      if (swap[i & (SEG-1)]) for (int unsigned j = 0; j < TO; j++) weight[i][j] = next_weight[i][j];
    end
    // stationary loading
    if (load_clear) for (int unsigned j = 0; j < TO; j++) next_column[j] = 0;
    if (load_en && load_row)
      for (int unsigned j = 0; j < TO; j++) begin
        next_weight[load_index][j] = data[j];
        next_column[j] = next_column[j] + (32'(data[j]) <<< 7);
      end
    if (load_en && !load_row)
      for (int unsigned c = 0; c < LC; c++) if (c == 0 || load_wide)
        for (int unsigned i = 0; i < TI; i++) next_weight[i][$clog2(TO)'(load_index) + $clog2(TO)'(c)] = data[c*TI + i];
  end
  /* verilator lint_on BLKSEQ */
endmodule
