// Window of WGROUPS groups of G lanes of W bits -> the banks of lane memories: group i of the window goes to bank (group + i) % GROUPS.
//
// bank_mask    which banks the window reaches, by its groups enabled in mask
// bank_data    a word of all banks, of which those in bank_mask mean something
// Combinational. Cost: a multiplexer of WGROUPS inputs per bit of a word (one LUT for up to four); memories written alike share one.
module lane_window #(
  parameter [31:0] W = 8, parameter [31:0] G = 16, parameter [31:0] GROUPS = 4, parameter [31:0] WGROUPS = 2,
  parameter [31:0] GW = GROUPS > 1 ? $clog2(GROUPS) : 1
) (
  input  logic [GW-1:0]          group,    // bank of the window's group 0
  input  logic [WGROUPS-1:0]     mask,     // groups of the window that are there
  input  logic [WGROUPS*G*W-1:0] data,     // the window, group 0 in the low bits
  output logic [GROUPS-1:0]      bank_mask,
  output logic [GROUPS*G*W-1:0]  bank_data
);
  localparam [31:0] N = G*W;
  localparam [31:0] MW = WGROUPS > 1 ? $clog2(WGROUPS) : 1;
  if (GROUPS == 1) begin : g_one
    logic unused;
    assign unused = &{1'b0, group};
    assign bank_mask = mask;
    assign bank_data = data;
  end else begin : g_many
    for (genvar b = 0; b < GROUPS; b = b + 1) begin : g_bank
      logic [GW-1:0] index;                          // which group of the window this bank gets
      assign index = GW'(b) - group;
      assign bank_mask[b] = 32'(index) < WGROUPS && mask[index[MW-1:0]];
      for (genvar k = 0; k < WGROUPS; k = k + 1) begin : g_pick      // group k of the window or a later one
        logic [N-1:0] q;
        if (k == WGROUPS - 1) begin : g_last
          assign q = data[k*N +: N];
        end else begin : g_other
          assign q = index[MW-1:0] == MW'(k) ? data[k*N +: N] : g_pick[k+1].q;
        end
      end
      assign bank_data[b*N +: N] = g_pick[0].q;
    end
  end
endmodule
