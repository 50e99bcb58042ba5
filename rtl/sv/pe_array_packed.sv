// Weight-stationary PE array with two products per DSP slice: ports, latency and results of pe_array.sv, bit for bit.
//
// Columns 2 j and 2 j + 1 share one multiplication: ((w1 << 19) + w0) * a, a 27 x 18 multiplier behind its pre-adder (DSP48E2:
// A = w1 << 19, D = w0, B = a, cascade through PCIN). A cascade of SEG <= 16 rows keeps |sum of w0 * a| <= 16 * 127 * 128 < 2**18,
// so the low 19 bits are the sum of column 2 j as a signed number, and the rest plus the borrow (bit 18) is that of column 2 j + 1.
// The last FABRIC pairs of columns multiply by shifts and adds, in look-up tables, where a device has too few DSP slices.
// Cost: TI x (TO - 2 FABRIC) / 2 DSP slices, 2 TI x TO bytes of weights (one set in the slices' input registers), a 2:1 multiplexer
// for each of TI x TO bytes.
// Weights must be within -127 .. 127 (the number contract); a may be -128. TO must be even.
module pe_array_packed #(
  parameter [31:0] TI = 16, parameter [31:0] TO = 16, parameter [31:0] SEG = 16, parameter [31:0] LC = 1, parameter [31:0] FABRIC = 0,
  parameter [31:0] IW = $clog2(TI)
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
  localparam [31:0] PAIRS = TO / 2;
  localparam [31:0] SUM = $clog2(TI) + 16;              // bits of a sum with its column correction

  logic signed [7:0]  even   [0:TI-1][0:PAIRS-1];      // weights of columns 2 j
  logic signed [7:0]  odd    [0:TI-1][0:PAIRS-1];      // and 2 j + 1
  logic signed [31:0] column [0:TO-1];                 // 128 * column sums of a row-loaded tile
  logic signed [7:0]  next_even   [0:TI-1][0:PAIRS-1]; // the tile that is being loaded
  logic signed [7:0]  next_odd    [0:TI-1][0:PAIRS-1];
  logic signed [31:0] next_column [0:TO-1];
  logic signed [47:0] p      [0:TI-1][0:PAIRS-1];
  logic signed [31:0] total  [0:TO-1];
  logic [32*TO-1:0]   word;
  logic signed [7:0]  skew   [0:SEG*TI-1];             // the last SEG tokens, newest last
  logic signed [17:0] x;
  logic signed [26:0] w;
  logic signed [15:0] e, o;
  logic signed [7:0]  lane   [0:TI-1];
  logic signed [7:0]  data   [0:TI*LC-1];
  logic signed [7:0]  right  [0:TI-1];                 // column to load into an odd one

  for (genvar g = 0; g < TI; g++) begin : g_lane
    assign lane[g] = a[8*g +: 8];
    assign right[g] = load_wide ? data[(LC-1)*TI + g] : data[g];
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
    for (int unsigned i = 0; i < TI; i++)
      for (int unsigned j = 0; j < PAIRS; j++) begin even[i][j] = 0; odd[i][j] = 0; next_even[i][j] = 0; next_odd[i][j] = 0; end
    for (int unsigned i = 0; i < TI; i++) for (int unsigned j = 0; j < PAIRS; j++) p[i][j] = 0;
    for (int unsigned j = 0; j < TO; j++) total[j] = 0;
    word = 0;
    sum = 0;
    for (int unsigned i = 0; i < SEG*TI; i++) skew[i] = 0;
    x = 0;
    w = 0;
    e = 0;
    o = 0;
  end

  // token * weight by the radix-4 Booth digits of the token, -2 .. 2, two bits of the product a digit. A negative multiple is its
  // complement and one of the bits that `high` starts with. A bit of an addition depends on six bits: one look-up table.
  function automatic signed [15:0] product(input logic signed [7:0] token, input logic signed [7:0] weight);
    logic signed [10:0] multiple, high;
    logic [8:0]         bits;
    logic [7:0]         low;
    bits = {token, 1'b0};
    high = {4'b0, bits[8], 1'b0, bits[6], 1'b0, bits[4], 1'b0, bits[2]};
    for (int unsigned k = 0; k < 8; k += 2) begin
      multiple = bits[k+1] != bits[k] ? 11'(weight) : bits[k+2] != bits[k+1] ? 11'(weight) <<< 1 : 11'sd0;
      high = (bits[k+2] ? ~multiple : multiple) + high;
      low[k +: 2] = high[1:0];
      high = high >>> 2;
    end
    product = {high[7:0], low};
  endfunction

  /* verilator lint_off BLKSEQ */
  always @(posedge clk) begin
    // sums of the segments and the column correction (p as it was before this edge)
    for (int unsigned j = 0; j < TO; j++) total[j] = column[j];
    if (swap[SEG]) for (int unsigned j = 0; j < TO; j++) column[j] = next_column[j];
    for (int unsigned i = SEG-1; i < TI; i += SEG)
      for (int unsigned j = 0; j < PAIRS; j++) begin
        total[2*j]   = total[2*j] + 32'($signed(p[i][j][18:0]));
        total[2*j+1] = total[2*j+1] + 32'($signed(p[i][j][37:19])) + (j < PAIRS - FABRIC ? 32'(p[i][j][18]) : 32'd0);
      end
    for (int unsigned j = 0; j < TO; j++) word[32*j +: 32] = 32'($signed(total[j][SUM-1:0]));
    sum <= word;
    // skew: row i works on the token that came i % SEG cycles ago
    for (int unsigned i = 0; i < TI*SEG - TI; i++) skew[i] = skew[i+TI];
    for (int unsigned i = 0; i < TI; i++) skew[TI*SEG - TI + i] = lane[i];
    // cascades, last row first: every row adds to the value its upper neighbour had before this edge
    for (int unsigned i = TI-1; i < TI; i--) begin
      x = 18'(skew[(SEG-1 - (i & (SEG-1)))*TI + i]);
      for (int unsigned j = 0; j < PAIRS - FABRIC; j++) begin
        w = (27'(odd[i][j]) <<< 19) + 27'(even[i][j]);
        if ((i & (SEG-1)) == 0) p[i][j] = 48'(x) * 48'(w);
        else                    p[i][j] = p[i-1][j] + 48'(x) * 48'(w);
      end
      for (int unsigned j = PAIRS - FABRIC; j < PAIRS; j++) begin
        e = product(x[7:0], even[i][j]);
        o = product(x[7:0], odd[i][j]);
        if ((i & (SEG-1)) == 0) p[i][j][37:0] = {19'(o), 19'(e)};
        else                    p[i][j][37:0] = {p[i-1][j][37:19] + 19'(o), p[i-1][j][18:0] + 19'(e)};
      end
      if (swap[i & (SEG-1)])
        for (int unsigned j = 0; j < PAIRS; j++) begin even[i][j] = next_even[i][j]; odd[i][j] = next_odd[i][j]; end
    end
    // stationary loading
    if (load_clear) for (int unsigned j = 0; j < TO; j++) next_column[j] = 0;
    if (load_en && load_row) begin
      for (int unsigned j = 0; j < PAIRS; j++) begin
        next_even[load_index][j] = data[2*j];
        next_odd[load_index][j] = data[2*j+1];
      end
      for (int unsigned j = 0; j < TO; j++) next_column[j] = next_column[j] + (32'(data[j]) <<< 7);
    end
    if (load_en && !load_row)
      for (int unsigned i = 0; i < TI; i++) begin
        if (!load_index[0])                        next_even[i][$clog2(PAIRS)'(load_index >> 1)] = data[i];
        if (load_index[0] || load_wide && LC == 2) next_odd[i][$clog2(PAIRS)'(load_index >> 1)] = right[i];
      end
  end
  /* verilator lint_on BLKSEQ */
endmodule
